"""A two-tower sequence model: what is wanted next, given the last items.

    x_i  = E[item i] + P[place i]                                            the session's and the past's last items
    a_i  = w . sigmoid(A x_i + B x_last)
    h    = tanh(C [sum_i a_i x_i ; x_last])                                  the user tower
    score(item) = <h, E[item]> + b[item]                                     the item tower

Attention with the last item as the query, after STAMP (Liu et al., KDD 2018). Fine-tuned on micro-batches cut by
count: the new examples together with others drawn from a replay buffer, by softmax over the batch's items and some
drawn evenly, corrected for how often each is drawn (Yi et al.: Sampling-bias-corrected neural modeling, RecSys 2019).

Scores are made of plain arrays. Torch is loaded to learn only (`sequence_training`); a model that is built to serve
begins with zeros and takes another one's arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from streamrec.engine.arrays.batch import NOTHING, Array, Bool, Float32, Int32, Int64, MicroBatch, Queries
from streamrec.engine.arrays.compiled import drawn_below
from streamrec.engine.following.served import Arrays, ChangedRows, Rows, RowStamps
from streamrec.engine.models import ModelParts
from streamrec.engine.models.guards import StepGuard
from streamrec.engine.retrieval import RetrieverParts
from streamrec.engine.retrieval.nearest import Nearest

if TYPE_CHECKING:
    from streamrec.engine.models.sequence_training import SequenceTraining

PLACES = 16
"""Last items that the user tower reads."""


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
    """Learns on `device`; scores from arrays in the process's own memory. One that is `serving` learns nothing."""

    def __init__(
        self,
        name: str,
        capacity: int,
        *,
        device: str = "cpu",
        seed: int = 0,
        training: Training | None = None,
        guard: StepGuard | None = None,
        serving: bool = False,
    ) -> None:
        self.name = name
        self.guard = guard or StepGuard()
        self.training = training or Training()
        self.seed = seed
        self.rows = 0
        self.updates = 0
        width, buffer = self.training.width, 0 if serving else self.training.buffer
        held = 0 if serving else capacity
        self.vectors: Float32 = np.zeros((held, width), np.float32)
        self.bias: Float32 = np.zeros(held, np.float32)
        self._frequency = np.zeros(held, np.float64)  # decayed share of each item among the targets
        self._contexts = np.full((buffer, PLACES), NOTHING, np.int32)
        self._targets = np.full(buffer, NOTHING, np.int32)
        self._stored = 0
        self._fresh = 0
        self._stamped = RowStamps(held)  # of vectors and bias
        self._users = np.empty((0, width), np.float32)
        self._encoded_at: tuple[int, int, bytes] | None = None
        self.learner: SequenceTraining | None = None
        self._tower = _silent(width)
        if not serving:
            from streamrec.engine.models.sequence_training import SequenceTraining

            rates = self.training.learning_rate, self.training.row_learning_rate
            self.learner = SequenceTraining(self.vectors, self.bias, PLACES, rates, device, seed, self.guard)
            self._tower = self.learner.weights

    @classmethod
    def build(cls, parts: ModelParts) -> SequenceModel:
        """As `streamrec.config.parts` lists it."""
        device = "cpu" if parts.serving else parts.device()
        return cls(parts.name, parts.capacity, device=device, seed=parts.seed, serving=parts.serving)

    @property
    def refused(self) -> int:
        return self.guard.refused

    @property
    def skipped(self) -> int:
        """Updates that were refused or taken back."""
        return self.guard.refused + self.guard.taken_back

    # Scoring

    def score(self, queries: Queries, rows: slice, items: Int32) -> Float32:
        known = (items != NOTHING) & (items < self.rows)
        if not known.any():
            return np.full(items.shape, -np.inf, np.float32)
        users = self.users(queries, rows)  # (rows, width)
        safe = np.where(known, items, 0)
        vectors = self.vectors[safe]  # (rows, candidates, width)
        scores = np.einsum("qcw,qw->qc", vectors, users) + self.bias[safe]
        return np.where(known, scores, -np.inf).astype(np.float32)

    def users(self, queries: Queries, rows: slice) -> Float32:
        """The user vector of these queries, (rows, width)."""
        # A query's seed is its name: retrieval and scoring ask for the same vectors, which are encoded once.
        moment = (self.updates, self.rows, queries.seed[rows].tobytes())
        if self._encoded_at != moment:
            contexts = queries.items[rows, :PLACES]
            there = (contexts != NOTHING) & (contexts < self.rows)  # (rows, places)
            self._users, self._encoded_at = self._encoded(contexts, there), moment
        return self._users

    def _encoded(self, contexts: Int32, there: Bool) -> Float32:
        """The user tower. Each product is of one query's own: its bits do not depend on how many came with it."""
        tower, width = self._tower, self.training.width
        x = np.zeros((*contexts.shape, width), np.float32)
        x[there] = self.vectors[contexts[there]]
        x += tower["module.place"]  # (rows, places, width)
        last = x[:, :1]  # (rows, 1, width)
        inner = x @ tower["module.of_item.weight"].T + (last @ tower["module.of_last.weight"].T)
        inner += tower["module.of_item.bias"]
        with np.errstate(over="ignore"):  # a sigmoid of nothing
            np.exp(np.negative(inner, out=inner), out=inner)
        attention = (1.0 / (1.0 + inner)) @ tower["module.weight.weight"].T  # (rows, places, 1)
        gathered = (attention * x * there[:, :, None]).sum(1, keepdims=True)  # (rows, 1, width)
        joined = np.concatenate([gathered, last], 2) @ tower["module.joined.weight"].T + tower["module.joined.bias"]
        users: Float32 = np.tanh(joined)[:, 0]
        return users

    def item_vectors(self) -> Float32:
        """(items, width), a view"""
        return self.vectors[: self.rows]

    def item_bias(self) -> Float32:
        """(items,)"""
        return self.bias[: self.rows]

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
        self.vectors[row] = 0.2 * noise
        self.bias[row] = 0.0
        self._tell(slice(row, row + 1))

    def _tell(self, rows: slice) -> None:
        """These rows were written to."""
        self._stamped.touch(rows)
        if self.learner is not None:
            self.learner.told(rows)

    def _update(self, chosen: Int64) -> None:
        """One step on these places of the buffer."""
        assert self.learner is not None
        contexts, targets = self._contexts[chosen], self._targets[chosen]
        negatives = self._negatives()
        named = np.concatenate([contexts.ravel(), targets, negatives])
        rows, places = np.unique(np.where(named < 0, targets[0], named), return_inverse=True)
        local, wide = np.where(named < 0, NOTHING, places), contexts.size
        correction = self._log_expected(targets, negatives)
        self.updates += 1
        self._stamped.touch(rows)
        self.learner.step(rows, local[:wide].reshape(contexts.shape), local[wide:], correction)
        self._tower = self.learner.weights

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

    # Snapshots

    def forget(self, items: Int32) -> None:
        self._encoded_at = None
        for row in items.tolist():
            if row < self.rows:
                self._begin(row)
        if self.learner is not None:
            self.learner.forget(items)
        self._frequency[items] = 0.0
        self._contexts[np.isin(self._contexts, items)] = NOTHING
        self._targets[np.isin(self._targets, items)] = NOTHING

    def served(self) -> dict[str, Rows]:
        return {**self._tower, "rows.vectors": self.vectors[: self.rows], "rows.bias": self.bias[: self.rows]}

    def serve(self, arrays: Arrays, changed: ChangedRows | None = None) -> None:
        self._encoded_at = None
        self.vectors, self.bias = arrays["rows.vectors"], arrays["rows.bias"]
        self.rows = len(self.bias)
        self._tower = {name: arrays[name] for name in self._tower}

    def touched(self, since: int) -> tuple[int, ChangedRows]:
        moment, rows = self._stamped.since(since)
        return moment, {"rows.vectors": rows, "rows.bias": rows}

    def state(self) -> dict[str, Array]:
        """Of one that serves, only that."""
        held = min(self._stored, len(self._targets))
        learned = {} if self.learner is None else self.learner.state(self.rows)
        return {name: np.array(rows) for name, rows in self.served().items()} | {
            **learned,
            "frequency": self._frequency[: self.rows].copy(),
            "contexts": self._contexts[:held].copy(),
            "targets": self._targets[:held].copy(),
            "counts": np.array([self._stored, self._fresh, self.updates], np.int64),
            **self.guard.state(),
        }

    def restore(self, arrays: Mapping[str, Array]) -> None:
        self._encoded_at = None
        self.vectors[: self.rows] = 0.0
        self.bias[: self.rows] = 0.0
        self._stamped.touch(slice(0, max(self.rows, len(arrays["frequency"]))))
        self._frequency[:] = 0.0
        self._contexts[:] = self._targets[:] = NOTHING
        self.rows = len(arrays["frequency"])
        self.vectors[: self.rows], self.bias[: self.rows] = arrays["rows.vectors"], arrays["rows.bias"]
        self._frequency[: self.rows] = arrays["frequency"]
        self._contexts[: len(arrays["contexts"])] = arrays["contexts"]
        self._targets[: len(arrays["targets"])] = arrays["targets"]
        self._stored, self._fresh, self.updates = (int(count) for count in arrays["counts"])
        self.guard.restore(arrays)
        if self.learner is not None:
            self.learner.restore(arrays)
            self._tower = self.learner.weights


def _silent(width: int) -> dict[str, Float32]:
    """A tower of zeros."""
    layers = {"of_item": (width, width), "of_last": (width, width), "weight": (1, width), "joined": (width, 2 * width)}
    shapes: dict[str, tuple[int, ...]] = {"module.place": (PLACES, width)}
    shapes |= {f"module.{name}.weight": shape for name, shape in layers.items()}
    shapes |= {f"module.{name}.bias": (width,) for name in ("of_item", "joined")}
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def build_retriever(parts: RetrieverParts) -> Nearest:
    """The nearest among the most popular items, by the popularity that forgets slowest."""
    slowest = next(name for name in ("popularity_days", "popularity") if name in parts.models)
    return Nearest(parts.name, parts.model, parts.models[slowest])
