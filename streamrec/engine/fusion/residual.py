"""A small network on top of the linear fusion: what no weighted sum of the models' scores can say.

    residual(c) = v . relu(B relu(A [x_c ; q] + a) + b)         x_c the candidate's features, q the query's context

Learned by softmax over a few candidates, added to the linear score, which it only corrects: it starts at zero. Its
output is one more feature of the fusion, which weighs it like the word of any other adviser, and trusts it as far as
it has been right about what it had not yet learned. Fine-tuned on the newest queries together with others drawn from a
replay buffer, for one pass over a stream is too few for a network.

Knows nothing of candidates' origin, nor of posteriors and slates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from streamrec.engine.arrays.batch import HISTORY, NOTHING, Array, Float32, Float64, Int64, Queries
from streamrec.engine.arrays.compiled import drawn_below
from streamrec.engine.arrays.tensors import restore_tensors, tensors_of

CONTEXT = ("session length", "activity", "pause", "history length")
HIDDEN = (32, 16)
SHOWN = 32
"""Candidates that a learned query keeps: the wanted ones and others drawn evenly."""
PORTION = 64
"""New queries per update..."""
REPLAYED = 64
"""...and older ones learned again with them."""
GRADIENT_NORM = 1.0


class Residual:
    """Scores with numpy, query by query in one shape, so that bits do not depend on how many came together."""

    def __init__(self, features: int, *, buffer: int = 2_048, learning_rate: float = 4e-3, seed: int = 0) -> None:
        """`features` of a candidate, without this network's own output."""
        self.features = features
        self.seed = seed
        self.skipped = 0  # updates refused for a loss or gradient that is not finite
        self.updates = 0
        torch.manual_seed(seed)  # initial weights; nothing is drawn from torch's generator after this
        self._first = nn.Linear(features + len(CONTEXT), HIDDEN[0])
        self._second = nn.Linear(HIDDEN[0], HIDDEN[1])
        self._last = nn.Linear(HIDDEN[1], 1, bias=False)
        nn.init.zeros_(self._last.weight)
        self._layers = nn.ModuleDict({"first": self._first, "second": self._second, "last": self._last})
        self._optimizer = torch.optim.Adam(self._layers.parameters(), lr=learning_rate)
        self._inputs = np.zeros((buffer, SHOWN, features + len(CONTEXT)), np.float16)
        self._wanted = np.zeros((buffer, SHOWN), np.float32)  # sums to one over the wanted
        self._there = np.zeros((buffer, SHOWN), bool)
        self._stored = 0
        self._fresh = 0

    def score(self, features: Float32, queries: Queries, rows: slice) -> Float32:
        """The correction of each candidate, (rows, candidates), from features (rows, candidates, features)."""
        first, second, last = (_plain(layer.weight) for layer in (self._first, self._second, self._last))
        of_features, of_context = first[:, : self.features].T, first[:, self.features :].T
        corrections = np.empty(features.shape[:2], np.float32)
        for row, (candidates, user) in enumerate(zip(features, context(queries, rows), strict=True)):
            hidden = candidates @ of_features + (user @ of_context + _plain(self._first.bias))  # (candidates, hidden)
            hidden = np.maximum(hidden, 0.0) @ second.T + _plain(self._second.bias)
            corrections[row] = np.maximum(hidden, 0.0) @ last[0]
        return corrections

    def remember(self, features: Float32, queries: Queries, row: int, wanted: list[int]) -> None:
        """Keep a query for learning.

        Args:
            features: (candidates, features) of the candidates there were.
            queries: of which this is the one in `row`.
            row: see queries.
            wanted: places of the wanted candidates.
        """
        if not np.isfinite(features).all():  # it would be met again and again in replay
            self.skipped += 1
            return
        slot = self._stored % len(self._inputs)
        wanted = wanted[: SHOWN // 2]
        others = np.delete(np.arange(len(features)), wanted)
        drawn = drawn_below(2**31, len(others), self.seed + 1, self._stored)
        shown = np.concatenate([wanted, others[np.argsort(drawn, kind="stable")]])[:SHOWN].astype(np.int64)
        used = len(shown)
        self._inputs[slot, :used, : self.features] = features[shown]
        self._inputs[slot, :used, self.features :] = context(queries, slice(row, row + 1))[0]
        self._wanted[slot] = 0.0
        self._wanted[slot, : len(wanted)] = 1.0 / len(wanted)
        self._there[slot] = np.arange(SHOWN) < used
        self._stored += 1
        self._fresh += 1

    def learn(self, weights: Float64) -> None:
        """One step, when enough queries have come: correct the linear score of these weights, (features,)."""
        if self._fresh < PORTION:
            return
        newest = (self._stored - 1 - np.arange(self._fresh)) % len(self._inputs)
        self._fresh = 0
        held = min(self._stored, len(self._inputs))
        chosen: Int64 = np.concatenate([newest, drawn_below(held, REPLAYED, self.seed + 2, self.updates)])
        inputs = self._inputs[chosen].astype(np.float32)  # (queries, SHOWN, features + context)
        linear = torch.from_numpy(inputs[:, :, : self.features] @ weights.astype(np.float32))
        utility = linear + self._forward(torch.from_numpy(inputs))  # (queries, SHOWN)
        utility = utility.masked_fill(~torch.from_numpy(self._there[chosen]), -1e9)
        wanted = torch.from_numpy(self._wanted[chosen])
        self._step(-(torch.log_softmax(utility, 1) * wanted).sum(1).mean())

    def _forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = functional.relu(self._second(functional.relu(self._first(inputs))))
        output: torch.Tensor = self._last(hidden).squeeze(2)
        return output

    def _step(self, loss: torch.Tensor) -> None:
        self.updates += 1
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = float(nn.utils.clip_grad_norm_(self._layers.parameters(), GRADIENT_NORM))
        if not (math.isfinite(float(loss.detach())) and math.isfinite(norm)):
            self.skipped += 1
            return
        self._optimizer.step()

    def state(self) -> dict[str, Array]:
        """What a snapshot holds."""
        held = min(self._stored, len(self._inputs))
        return tensors_of(self._layers, self._optimizer) | {
            "inputs": self._inputs[:held].copy(),
            "wanted": self._wanted[:held].copy(),
            "there": self._there[:held].copy(),
            "counts": np.array([self._stored, self._fresh, self.updates, self.skipped], np.int64),
        }

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """The inverse of `state`."""
        restore_tensors(arrays, self._layers, self._optimizer)
        held = len(arrays["wanted"])
        self._inputs[:held], self._wanted[:held] = arrays["inputs"], arrays["wanted"]
        self._there[:held] = arrays["there"]
        self._stored, self._fresh, self.updates, self.skipped = (int(count) for count in arrays["counts"])


def context(queries: Queries, rows: slice) -> Float32:
    """What is known of the user, each number of the size of one, (rows, context)."""
    columns = (
        np.log1p(queries.session[rows]) / 3.0,
        np.log1p(queries.activity[rows]) / 5.0,
        np.log1p(queries.ages_s[rows, 0]) / 10.0,
        (queries.items[rows] != NOTHING).sum(1) / HISTORY,
    )
    return np.stack(columns, axis=1).astype(np.float32)


def _plain(parameter: torch.Tensor) -> Float32:
    plain: Float32 = parameter.detach().numpy()
    return plain
