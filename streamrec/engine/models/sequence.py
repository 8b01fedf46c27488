"""A two-tower sequence model in torch: what is wanted next, given the last items.

    x_i  = E[item i] + P[place i]                                            the session's and the past's last items
    a_i  = w . sigmoid(A x_i + B x_last)
    h    = tanh(C [sum_i a_i x_i ; x_last])                                  the user tower
    score(item) = <h, E[item]> + b[item]                                     the item tower

Attention with the last item as the query, after STAMP (Liu et al., KDD 2018). Fine-tuned on micro-batches cut by
count: the new examples together with others drawn from a replay buffer, by softmax over the batch's items and some
drawn evenly, corrected for how often each is drawn (Yi et al.: Sampling-bias-corrected neural modeling, RecSys 2019).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from streamrec.engine.arrays.batch import NOTHING, Array, Float32, Int32, Int64, MicroBatch, Queries
from streamrec.engine.arrays.compiled import drawn_below
from streamrec.engine.arrays.tensors import restore_tensors, tensors_of
from streamrec.engine.models import ModelParts
from streamrec.engine.models.guards import StepGuard
from streamrec.engine.retrieval import RetrieverParts
from streamrec.engine.retrieval.nearest import Nearest

PLACES = 16
"""Last items that the user tower reads."""
BLOCK = 8
"""Queries encoded together."""
GRADIENT_NORM = 5.0
NORM_LIMIT = 12.0
"""Longer item vectors are shortened; on the public logs they stay below 9."""

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Of item vectors and biases, (named, width) and (named,)."""


class UserTower(nn.Module):
    """Items of a user, newest first, to one vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(PLACES, width) * 0.02)
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


@dataclass(frozen=True, slots=True)
class Training:
    """How large the model is and how it is taught."""

    width: int = 64  # of user and item vectors
    portion: int = 64  # new examples of one update
    replayed: int = 96  # examples drawn again from the buffer, beside them
    buffer: int = 16_384  # examples kept for replay
    uniform_negatives: int = 256  # items drawn evenly, beside those of the update itself
    learning_rate: float = 3e-3  # Adam's, of the tower
    row_learning_rate: float = 0.3  # row-wise Adagrad's, of item vectors


class SequenceModel:
    """Learns on `device`; scores from a copy in the process's own memory."""

    def __init__(
        self,
        name: str,
        capacity: int,
        *,
        device: str = "cpu",
        seed: int = 0,
        training: Training | None = None,
        guard: StepGuard | None = None,
    ) -> None:
        self.name = name
        self.guard = guard or StepGuard()
        self.training = training or Training()
        width, buffer = self.training.width, self.training.buffer
        self.device = torch.device(device)
        self.seed = seed
        torch.manual_seed(seed)  # initial weights; nothing is drawn from torch's generator after this
        self.tower = UserTower(width).to(self.device)
        self.optimizer = torch.optim.Adam(self.tower.parameters(), lr=self.training.learning_rate)
        self.vectors = torch.zeros(capacity, width, device=self.device)
        self.bias = torch.zeros(capacity, device=self.device)
        self._squares = torch.zeros(capacity, device=self.device)  # row-wise Adagrad
        self._bias_squares = torch.zeros(capacity, device=self.device)
        self.rows = 0
        self.updates = 0
        self._frequency = np.zeros(capacity, np.float64)  # decayed share of each item among the targets
        self._contexts = np.full((buffer, PLACES), NOTHING, np.int32)
        self._targets = np.full(buffer, NOTHING, np.int32)
        self._stored = 0
        self._fresh = 0
        self._users = np.empty((0, width), np.float32)
        self._encoded_at: tuple[int, int, bytes] | None = None

    @classmethod
    def build(cls, parts: ModelParts) -> SequenceModel:
        """As `streamrec.config.parts` lists it."""
        return cls(parts.name, parts.capacity, device=parts.device(), seed=parts.seed)

    @property
    def refused(self) -> int:
        return self.guard.refused

    @property
    def skipped(self) -> int:
        """Updates that were refused or taken back."""
        return self.guard.refused + self.guard.taken_back

    # Scoring

    def score(self, queries: Queries, rows: slice, items: Int32) -> Float32:
        users = self.users(queries, rows)  # (rows, width)
        known = (items != NOTHING) & (items < self.rows)
        safe = np.where(known, items, 0)
        vectors = self.item_vectors()[safe]  # (rows, candidates, width)
        scores = np.einsum("qcw,qw->qc", vectors, users) + self._host_bias()[safe]
        return np.where(known, scores, -np.inf).astype(np.float32)

    def users(self, queries: Queries, rows: slice) -> Float32:
        """The user vector of these queries, (rows, width).

        Encoded in aligned blocks of BLOCK query rows, whichever of them are in use: one shape, so a row's bits do not
        depend on how many came with it.
        """
        first, last = rows.start // BLOCK * BLOCK, -(-rows.stop // BLOCK) * BLOCK
        # A query's seed is its name: retrieval and scoring ask for the same vectors, which are encoded once.
        moment = (self.updates, first, queries.seed[rows].tobytes())
        if self._encoded_at != moment:
            contexts = queries.items[first:last, :PLACES]
            known = torch.from_numpy(np.where(contexts < self.rows, contexts, NOTHING)).to(self.device).long()
            with torch.no_grad():
                blocks = [self._encoded(known[at : at + BLOCK]) for at in range(0, last - first, BLOCK)]
            self._users, self._encoded_at = torch.cat(blocks).cpu().numpy(), moment
        return self._users[rows.start - first : rows.stop - first]

    def item_vectors(self) -> Float32:
        """(items, width), a view where the model learns on the CPU."""
        return self.vectors[: max(self.rows, 1)].cpu().numpy()

    def item_bias(self) -> Float32:
        """(items,)"""
        return self._host_bias()[: self.rows]

    def _host_bias(self) -> Float32:
        return self.bias[: max(self.rows, 1)].cpu().numpy()

    def _encoded(self, contexts: torch.Tensor, vectors: torch.Tensor | None = None) -> torch.Tensor:
        there = contexts >= 0  # (batch, places)
        table = self.vectors if vectors is None else vectors
        gathered = functional.embedding(contexts.clamp(min=0), table) * there.unsqueeze(2)
        encoded: torch.Tensor = self.tower(gathered, there.to(gathered.dtype))  # (batch, width)
        return encoded

    # Learning

    def learn(self, batch: MicroBatch) -> None:
        examples = batch.examples
        for e in np.flatnonzero(examples.label[: batch.learned] == 1).tolist():
            q, item = int(examples.query[e]), int(examples.item[e])
            if q == NOTHING:
                continue
            context = batch.queries.items[q, :PLACES]  # what was known when it was ranked, not the rest of the basket
            self._admit(item)
            slot = self._stored % len(self._targets)
            self._contexts[slot], self._targets[slot] = context, item
            self._stored += 1
            self._fresh += 1
            if self._fresh == self.training.portion:
                self._fresh = 0
                chosen = self._chosen()
                self._count(self._targets[chosen[: self.training.portion]])
                self._update(chosen)

    def rehearse(self, passes: int) -> None:
        """Go over the replay buffer `passes` - 1 times more, in drawn order; nothing is counted anew."""
        held, size = min(self._stored, len(self._targets)), self.training.portion + self.training.replayed
        for _ in range((passes - 1) * held // size):
            chosen = drawn_below(held, size, self.seed + 3, self.updates)
            self._update(chosen[self._targets[chosen] != NOTHING])

    def _admit(self, item: int) -> None:
        while self.rows <= item:
            self._begin(self.rows)
            self.rows += 1

    def _begin(self, row: int) -> None:
        noise = drawn_below(2**24, self.vectors.shape[1], self.seed, row) / 2.0**24 - 0.5
        self.vectors[row] = torch.from_numpy(0.2 * noise).to(self.vectors)
        self.bias[row] = 0.0

    def _update(self, chosen: Int64) -> None:
        """One step on these places of the buffer."""
        contexts, targets = self._contexts[chosen], self._targets[chosen]
        negatives = self._negatives()
        named = np.concatenate([contexts.ravel(), targets, negatives])
        rows, places = np.unique(np.where(named < 0, targets[0], named), return_inverse=True)
        local = torch.from_numpy(np.where(named < 0, NOTHING, places)).to(self.device)
        size, wide = len(targets), contexts.size
        here = torch.from_numpy(rows).to(self.device).long()
        vectors = self.vectors[here].requires_grad_()  # (named, width)
        bias = self.bias[here].requires_grad_()  # (named,)
        classes = local[wide:]  # (batch + negatives,)
        correction = torch.from_numpy(self._log_expected(targets, negatives)).to(vectors)
        same = classes.unsqueeze(0) == classes[:size].unsqueeze(1)  # the target again is no negative
        same[torch.arange(size), torch.arange(size)] = False

        def loss_of(vectors: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
            users = self._encoded(local[:wide].reshape(size, PLACES), vectors)  # (batch, width)
            logits = users @ vectors[classes].T + bias[classes] - correction  # (batch, batch + negatives)
            right = torch.arange(size, device=self.device)
            return functional.cross_entropy(logits.masked_fill(same, -torch.inf), right)

        self._step(loss_of, here, vectors, bias)

    def _chosen(self) -> Int64:
        """Places in the buffer: the newest portion, then a replayed draw from all of it."""
        held = min(self._stored, len(self._targets))
        newest = (self._stored - 1 - np.arange(self.training.portion)) % len(self._targets)
        replayed = drawn_below(held, self.training.replayed, self.seed + 1, self.updates)
        chosen: Int64 = np.concatenate([newest, replayed]).astype(np.int64)
        kept: Int64 = chosen[self._targets[chosen] != NOTHING]
        return kept

    def _negatives(self) -> Int32:
        return drawn_below(self.rows, self.training.uniform_negatives, self.seed + 2, self.updates).astype(np.int32)

    def _count(self, targets: Int32) -> None:
        self._frequency *= 1.0 - 1e-2
        np.add.at(self._frequency, targets, 1e-2 / len(targets))

    def _log_expected(self, targets: Int32, negatives: Int32) -> Float32:
        """Log of how often each class is expected among the classes, by both ways of being drawn."""
        classes = np.concatenate([targets, negatives])
        expected = len(targets) * self._frequency[classes] + len(negatives) / self.rows
        logs: Float32 = np.log(expected).astype(np.float32)
        return logs

    def _step(self, loss_of: Loss, here: torch.Tensor, vectors: torch.Tensor, bias: torch.Tensor) -> None:
        """Step down the loss of a micro-batch, as far as the guard allows, and back if that made it worse."""
        self.updates += 1
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
                after = float(loss_of(self.vectors[here], self.bias[here]))
            if not self.guard.stands(before, after):
                undo()

    def _descend(self, factor: float, here: torch.Tensor, vectors: torch.Tensor, bias: torch.Tensor) -> None:
        self.optimizer.param_groups[0]["lr"] = factor * self.training.learning_rate
        self.optimizer.step()
        assert vectors.grad is not None
        assert bias.grad is not None
        pace = factor * self.training.row_learning_rate
        with torch.no_grad():
            self._squares[here] += vectors.grad.square().mean(1)
            self._bias_squares[here] += bias.grad.square()
            moved = vectors - (pace / (self._squares[here].sqrt() + 1e-6)).unsqueeze(1) * vectors.grad
            self.vectors[here] = moved.renorm(2, 0, NORM_LIMIT)
            self.bias[here] -= pace / (self._bias_squares[here].sqrt() + 1e-6) * bias.grad

    def _undo(self, here: torch.Tensor) -> Callable[[], None]:
        """What brings everything that a step on these rows moves back to where it is now."""
        rows = [(table, table[here].clone()) for table in (self.vectors, self.bias, self._squares, self._bias_squares)]
        tower, optimizer = copy.deepcopy((self.tower.state_dict(), self.optimizer.state_dict()))

        def undo() -> None:
            for table, values in rows:
                table[here] = values
            self.tower.load_state_dict(tower)
            self.optimizer.load_state_dict(optimizer)

        return undo

    # Snapshots

    def forget(self, items: Int32) -> None:
        self._encoded_at = None
        for row in items.tolist():
            if row < self.rows:
                self._begin(row)
        there = torch.from_numpy(items).long()
        self._squares[there] = 0.0
        self._bias_squares[there] = 0.0
        self._frequency[items] = 0.0
        self._contexts[np.isin(self._contexts, items)] = NOTHING
        self._targets[np.isin(self._targets, items)] = NOTHING

    def state(self) -> dict[str, Array]:
        held = min(self._stored, len(self._targets))
        arrays = tensors_of(self.tower, self.optimizer)
        for name in ("vectors", "bias", "_squares", "_bias_squares"):
            arrays[f"rows.{name}"] = getattr(self, name)[: self.rows].cpu().numpy().copy()
        return arrays | {
            "frequency": self._frequency[: self.rows].copy(),
            "contexts": self._contexts[:held].copy(),
            "targets": self._targets[:held].copy(),
            "counts": np.array([self._stored, self._fresh, self.updates], np.int64),
            **self.guard.state(),
        }

    def restore(self, arrays: Mapping[str, Array]) -> None:
        self._encoded_at = None
        restore_tensors(arrays, self.tower, self.optimizer)
        for table in (self.vectors, self.bias, self._squares, self._bias_squares):
            table[: self.rows] = 0.0
        self._frequency[:] = 0.0
        self._contexts[:] = self._targets[:] = NOTHING
        self.rows = len(arrays["frequency"])
        for name in ("vectors", "bias", "_squares", "_bias_squares"):
            getattr(self, name)[: self.rows] = torch.from_numpy(arrays[f"rows.{name}"]).to(self.device)
        self._frequency[: self.rows] = arrays["frequency"]
        self._contexts[: len(arrays["contexts"])] = arrays["contexts"]
        self._targets[: len(arrays["targets"])] = arrays["targets"]
        self._stored, self._fresh, self.updates = (int(count) for count in arrays["counts"])
        self.guard.restore(arrays)


def build_retriever(parts: RetrieverParts) -> Nearest:
    """The nearest among the most popular items, by the popularity that forgets slowest."""
    slowest = next(name for name in ("popularity_days", "popularity") if name in parts.models)
    return Nearest(parts.name, parts.model, parts.models[slowest])
