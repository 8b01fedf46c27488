"""Teaches the residual network in torch: its layers, their optimiser, and steps down a loss.

The layers' weights are arrays in the process's own memory, which the network scores by without torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional

from streamrec.engine.arrays.batch import Array, Bool, Float32
from streamrec.engine.arrays.tensors import Adam, arrays_of_module, restore_tensors, tensors_of

GRADIENT_NORM = 1.0


class ResidualTraining:
    """Three layers of so many inputs and hidden units, silent at first."""

    def __init__(self, inputs: int, hidden: tuple[int, int], learning_rate: float, seed: int) -> None:
        torch.manual_seed(seed)  # initial weights; nothing is drawn from torch's generator after this
        self._first = nn.Linear(inputs, hidden[0])
        self._second = nn.Linear(hidden[0], hidden[1])
        self._last = nn.Linear(hidden[1], 1, bias=False)
        nn.init.zeros_(self._last.weight)
        self._layers = nn.ModuleDict({"first": self._first, "second": self._second, "last": self._last})
        self._optimizer = Adam(self._layers.parameters(), learning_rate)

    @property
    def weights(self) -> dict[str, Float32]:
        """The layers' parameters, which steps change in place."""
        return arrays_of_module(self._layers)

    def step(self, inputs: Float32, linear: Float32, there: Bool, wanted: Float32) -> bool:
        """One step on queries, whether it was taken: not where the loss or its gradient is no number.

        Args:
            inputs: (queries, shown, inputs).
            linear: (queries, shown) the scores that are to be corrected.
            there: (queries, shown) where there is a candidate.
            wanted: (queries, shown) sums to one over the wanted.
        """
        hidden = functional.relu(self._second(functional.relu(self._first(torch.from_numpy(inputs)))))
        utility = torch.from_numpy(linear) + self._last(hidden).squeeze(2)  # (queries, shown)
        utility = utility.masked_fill(~torch.from_numpy(there), -1e9)
        loss = -(torch.log_softmax(utility, 1) * torch.from_numpy(wanted)).sum(1).mean()
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = float(nn.utils.clip_grad_norm_(self._layers.parameters(), GRADIENT_NORM))
        if not (math.isfinite(float(loss.detach())) and math.isfinite(norm)):
            return False
        self._optimizer.step()
        return True

    def state(self) -> dict[str, Array]:
        """Weights, and what the optimiser remembers."""
        return tensors_of(self._layers, self._optimizer)

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """The inverse of `state`; other arrays are passed over."""
        restore_tensors(arrays, self._layers, self._optimizer)
