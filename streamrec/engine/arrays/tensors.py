"""A torch module and its optimiser as named arrays, for snapshots, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import nn

from streamrec.engine.arrays.batch import Array, Float32

# Sums must not depend on how they were split, and products as small as those here gain nothing by it. Torch is loaded
# late, and sets its threads by itself.
torch.set_num_threads(1)

MODULE, MOMENTS = "module.", "moments."
BETAS, EPSILON = (0.9, 0.999), 1e-8


class Adam:
    """Steps as torch.optim.Adam takes them, to the bit, but without the compiler of torch, which nothing here uses.

    Loading that one costs seconds of every start. Kingma and Ba: Adam, a method for stochastic optimization, ICLR 2015.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> None:
        self.parameters = list(parameters)
        self.learning_rate = learning_rate
        self.moments: dict[int, dict[str, torch.Tensor]] = {}
        """Of each parameter that was moved: `step`, and running means of gradients and of their squares."""

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move each parameter that has a gradient."""
        for number, parameter in enumerate(self.parameters):
            if parameter.grad is None:
                continue
            if number not in self.moments:
                mean, square = torch.zeros_like(parameter), torch.zeros_like(parameter)
                self.moments[number] = {"step": torch.tensor(0.0), "exp_avg": mean, "exp_avg_sq": square}
            moments = self.moments[number]
            moments["step"] += 1
            step, mean, square = float(moments["step"]), moments["exp_avg"], moments["exp_avg_sq"]
            mean.lerp_(parameter.grad, 1 - BETAS[0])
            square.mul_(BETAS[1]).addcmul_(parameter.grad, parameter.grad, value=1 - BETAS[1])
            spread = (square.sqrt() / (1 - BETAS[1] ** step) ** 0.5).add_(EPSILON)
            parameter.addcdiv_(mean, spread, value=-self.learning_rate / (1 - BETAS[0] ** step))


def arrays_of_module(module: nn.Module) -> dict[str, Float32]:
    """Its parameters by name, as snapshots name them; on the CPU these are views."""
    return {MODULE + name: value.detach().cpu().numpy() for name, value in module.state_dict().items()}


def tensors_of(module: nn.Module, optimizer: Adam) -> dict[str, Array]:
    """Copies of all parameters and of what the optimiser remembers of each."""
    arrays: dict[str, Array] = {name: np.array(value) for name, value in arrays_of_module(module).items()}
    for parameter, moments in optimizer.moments.items():
        arrays |= {f"{MOMENTS}{parameter}.{name}": np.asarray(value.cpu()).copy() for name, value in moments.items()}
    return arrays


def restore_tensors(arrays: Mapping[str, Array], module: nn.Module, optimizer: Adam) -> None:
    """The inverse of `tensors_of`; other arrays are passed over."""
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
    module.load_state_dict({name[len(MODULE) :]: t for name, t in tensors.items() if name.startswith(MODULE)})
    optimizer.moments = {}
    for name, tensor in tensors.items():
        if name.startswith(MOMENTS):
            parameter, moment = name[len(MOMENTS) :].split(".", 1)
            device = optimizer.parameters[int(parameter)].device if moment != "step" else "cpu"
            optimizer.moments.setdefault(int(parameter), {})[moment] = tensor.to(device)
