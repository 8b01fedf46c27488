"""Teaches the sequence model in torch, on the CPU or a GPU: the user tower by Adam, rows of items by row-wise Adagrad.

What is learned lies in arrays of the process's own memory, by which `models.sequence` scores without torch: on the CPU
torch works on these very arrays, else what a step moved is copied there. Knows nothing of examples, nor of what is
drawn from them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from streamrec.engine.arrays.batch import Array, Float32, Int32, Int64
from streamrec.engine.arrays.tensors import Adam, arrays_of_module, restore_tensors, tensors_of
from streamrec.engine.models.guards import StepGuard

GRADIENT_NORM = 5.0
NORM_LIMIT = 12.0
"""Longer item vectors are shortened; on the public logs they stay below 9."""
SQUARES = ("rows._squares", "rows._bias_squares")

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Of item vectors and biases, (named, width) and (named,)."""


class UserTower(nn.Module):
    """Items of a user, newest first, to one vector."""

    def __init__(self, places: int, width: int) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(places, width) * 0.02)
        self.of_item = nn.Linear(width, width)
        self.of_last = nn.Linear(width, width, bias=False)
        self.weight = nn.Linear(width, 1, bias=False)
        self.joined = nn.Linear(2 * width, width)

    def forward(self, vectors: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        x = vectors + self.place  # (batch, places, width)
        last = x[:, :1]  # (batch, 1, width)
        attention = self.weight(torch.sigmoid(self.of_item(x) + self.of_last(last)))  # (batch, places, 1)
        gathered = (attention * x * there.unsqueeze(2)).sum(1)  # (batch, width)
        return torch.tanh(self.joined(torch.cat([gathered, last.squeeze(1)], 1)))  # (batch, width)


class SequenceTraining:
    """Moves a tower and the item vectors and biases given, by item index."""

    def __init__(
        self,
        vectors: Float32,
        bias: Float32,
        places: int,
        learning_rates: tuple[float, float],
        device: str,
        seed: int,
        guard: StepGuard,
    ) -> None:
        """`learning_rates` of the tower and of the rows."""
        self.guard = guard
        self.device = torch.device(device)
        self._own = self.device.type != "cpu"  # then torch has tables of its own
        self._host = vectors, bias
        self._learning_rate, self._row_learning_rate = learning_rates
        torch.manual_seed(seed)  # initial weights; nothing is drawn from torch's generator after this
        self.tower = UserTower(places, vectors.shape[1]).to(self.device)
        self.optimizer = Adam(self.tower.parameters(), self._learning_rate)
        self._vectors, self._bias = (torch.from_numpy(table).to(self.device) for table in self._host)
        self._squares = torch.zeros(len(bias), device=self.device)  # row-wise Adagrad
        self._bias_squares = torch.zeros(len(bias), device=self.device)

    @property
    def weights(self) -> dict[str, Float32]:
        """The tower's parameters; on the CPU steps change them in place, else this is a copy."""
        return arrays_of_module(self.tower)

    def told(self, rows: slice) -> None:
        """These rows of vectors and biases were written to by others."""
        if self._own:
            for table, host in zip((self._vectors, self._bias), self._host, strict=True):
                table[rows] = torch.from_numpy(host[rows]).to(self.device)

    def forget(self, rows: Int32) -> None:
        """These rows begin anew."""
        there = torch.from_numpy(rows).long().to(self.device)
        self._squares[there] = 0.0
        self._bias_squares[there] = 0.0

    def step(self, rows: Int64, contexts: Int64, classes: Int64, correction: Float32) -> None:
        """Step down the loss of a micro-batch, as far as the guard allows, and back if that made it worse.

        Args:
            rows: (named,) the items that the micro-batch names.
            contexts: (batch, places) where each stands among these, NOTHING where there is none.
            classes: (classes,) likewise; the first are the targets, (batch,).
            correction: (classes,) log of how often each was to be expected.
        """
        here, local, size = self._tensor(rows), self._tensor(contexts), len(contexts)
        named, expected = self._tensor(classes), torch.from_numpy(correction).to(self.device)
        vectors = self._vectors[here].requires_grad_()  # (named, width)
        bias = self._bias[here].requires_grad_()  # (named,)
        same = named.unsqueeze(0) == named[:size].unsqueeze(1)  # the target again is no negative
        same[torch.arange(size), torch.arange(size)] = False

        def loss_of(vectors: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
            users = self._encoded(local, vectors)  # (batch, width)
            logits = users @ vectors[named].T + bias[named] - expected  # (batch, classes)
            right = torch.arange(size, device=self.device)
            return functional.cross_entropy(logits.masked_fill(same, -torch.inf), right)

        self.optimizer.zero_grad()
        loss = loss_of(vectors, bias)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = float(nn.utils.clip_grad_norm_([*self.tower.parameters(), vectors, bias], GRADIENT_NORM))
        before = float(loss.detach())
        factor = self.guard.allow(before, norm)
        if factor == 0.0:
            return
        undo = self._undo(here) if self.guard.wary else None
        self._descend(factor, here, vectors, bias)
        if undo is not None:
            with torch.no_grad():
                after = float(loss_of(self._vectors[here], self._bias[here]))
            if not self.guard.stands(before, after):
                undo()
        if self._own:
            for table, host in zip((self._vectors, self._bias), self._host, strict=True):
                host[rows] = table[here].cpu().numpy()

    def _tensor(self, indices: Int64) -> torch.Tensor:
        return torch.from_numpy(indices).to(self.device).long()

    def _encoded(self, contexts: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        there = contexts >= 0  # (batch, places)
        gathered = functional.embedding(contexts.clamp(min=0), vectors) * there.unsqueeze(2)
        encoded: torch.Tensor = self.tower(gathered, there.to(gathered.dtype))  # (batch, width)
        return encoded

    def _descend(self, factor: float, here: torch.Tensor, vectors: torch.Tensor, bias: torch.Tensor) -> None:
        self.optimizer.learning_rate = factor * self._learning_rate
        self.optimizer.step()
        assert vectors.grad is not None
        assert bias.grad is not None
        pace = factor * self._row_learning_rate
        with torch.no_grad():
            self._squares[here] += vectors.grad.square().mean(1)
            self._bias_squares[here] += bias.grad.square()
            moved = vectors - (pace / (self._squares[here].sqrt() + 1e-6)).unsqueeze(1) * vectors.grad
            self._vectors[here] = moved.renorm(2, 0, NORM_LIMIT)
            self._bias[here] -= pace / (self._bias_squares[here].sqrt() + 1e-6) * bias.grad

    def _undo(self, here: torch.Tensor) -> Callable[[], None]:
        """What brings everything that a step on these rows moves back to where it is now."""
        tables = self._vectors, self._bias, self._squares, self._bias_squares
        rows = [(table, table[here].clone()) for table in tables]
        tower, moments = copy.deepcopy((self.tower.state_dict(), self.optimizer.moments))

        def undo() -> None:
            for table, values in rows:
                table[here] = values
            self.tower.load_state_dict(tower)
            self.optimizer.moments = moments

        return undo

    def state(self, rows: int) -> dict[str, Array]:
        """What a snapshot holds of the first rows, beside vectors and biases."""
        squares = zip(SQUARES, (self._squares, self._bias_squares), strict=True)
        return tensors_of(self.tower, self.optimizer) | {
            name: np.array(table[:rows].cpu().numpy()) for name, table in squares
        }

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """The inverse of `state`, after vectors and biases were."""
        restore_tensors(arrays, self.tower, self.optimizer)
        for name, table in zip(SQUARES, (self._squares, self._bias_squares), strict=True):
            table[:] = 0.0
            table[: len(arrays[name])] = torch.from_numpy(arrays[name]).to(self.device)
        self.told(slice(None))
