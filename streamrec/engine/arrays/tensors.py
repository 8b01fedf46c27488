"""A torch module and its optimiser as named arrays, for snapshots, and back."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from streamrec.engine.arrays.batch import Array, Float32

# Sums must not depend on how they were split, and products as small as those here gain nothing by it. Torch is loaded
# late, and sets its threads by itself.
torch.set_num_threads(1)

MODULE, MOMENTS = "module.", "moments."


def arrays_of_module(module: nn.Module) -> dict[str, Float32]:
    """Its parameters by name, as snapshots name them; on the CPU these are views."""
    return {MODULE + name: value.detach().cpu().numpy() for name, value in module.state_dict().items()}


def tensors_of(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Array]:
    """Copies of all parameters and of what the optimiser remembers of each."""
    arrays: dict[str, Array] = {name: np.array(value) for name, value in arrays_of_module(module).items()}
    for parameter, moments in optimizer.state_dict()["state"].items():
        arrays |= {f"{MOMENTS}{parameter}.{name}": np.asarray(value.cpu()).copy() for name, value in moments.items()}
    return arrays


def restore_tensors(arrays: Mapping[str, Array], module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """The inverse of `tensors_of`; other arrays are passed over."""
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
    module.load_state_dict({name[len(MODULE) :]: t for name, t in tensors.items() if name.startswith(MODULE)})
    remembered: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(MOMENTS):
            parameter, moment = name[len(MOMENTS) :].split(".", 1)
            remembered.setdefault(int(parameter), {})[moment] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": remembered})
