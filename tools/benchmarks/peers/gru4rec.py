"""GRU4Rec: a recurrent network over what a user wanted, one item after the other.

    h_t = GRU(E[item_t], h_(t-1))        score(item) = <h_t, E[item]> + b[item]

trained by softmax over the next item and others drawn by the square root of their counts, corrected for how often each
is drawn. Hidasi et al.: Session-based recommendations with recurrent neural networks, ICLR 2016; the draws: Hidasi,
Karatzoglou: Recurrent neural networks with top-k gains for session-based recommendations, CIKM 2018. Items of one
moment (a basket) have no order, and are shuffled at every pass.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from streamrec.engine.arrays.batch import NOTHING, Float32, Int32, Int64
from tools.benchmarks.peers import Past, Wanted

WIDTH = 64
STEPS = 32
"""Items read to score; longer sequences are cut into pieces of so many."""
PASSES = 12
MOST_LEARNED = 1_000_000
"""Next items learned in one training, all passes together: half a minute."""
BATCH = 256
"""Next items per step of the optimiser, about."""
DRAWN = 1_024
LEARNING_RATE = 5e-3
DROPOUT = 0.3


class Network(nn.Module):
    """Reads and compares with the same item vectors; column `items` is the empty place."""

    def __init__(self, items: int) -> None:
        super().__init__()
        self.vectors = nn.Embedding(items + 1, WIDTH, padding_idx=items)
        nn.init.normal_(self.vectors.weight, std=WIDTH**-0.5)
        self.bias = nn.Parameter(torch.zeros(items))
        self.gru = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, sequences: torch.Tensor) -> torch.Tensor:
        """Columns (batch, steps), oldest first, to the state after each step, (batch, steps, width)."""
        states: torch.Tensor = self.gru(self.dropout(self.vectors(sequences)))[0]
        dropped: torch.Tensor = self.dropout(states)
        return dropped


class Gru4Rec:
    """One network per training."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def fit(self, wanted: Wanted) -> None:
        torch.manual_seed(self._seed)  # initial weights, dropout and draws
        rng = np.random.default_rng(self._seed)
        self._items = wanted.items
        self._network = Network(wanted.items).train()
        optimizer = torch.optim.Adam(self._network.parameters(), LEARNING_RATE)
        roots = np.sqrt(np.bincount(wanted.item, minlength=wanted.items))
        chance = torch.from_numpy(roots / roots.sum()).float()  # (items,)
        for _ in range(max(1, min(PASSES, MOST_LEARNED // len(wanted.item)))):
            for batch in _batches(_pieces(wanted, rng), wanted.items, rng):
                optimizer.zero_grad()
                torch.autograd.backward(self._loss(torch.from_numpy(batch), chance))
                optimizer.step()
        self._network.eval()

    def scores(self, users: Int32, past: Past) -> Float32:
        sequences, length = _oldest_first(past.items[:, :STEPS], self._items)
        with torch.no_grad():
            states = self._network(torch.from_numpy(sequences))  # (rows, steps, width)
            last = states[torch.arange(len(length)), torch.from_numpy(np.maximum(length - 1, 0))]  # (rows, width)
            scores = last @ self._network.vectors.weight[: self._items].T + self._network.bias  # (rows, items)
        found: Float32 = scores.numpy()
        found[length == 0] = -np.inf
        return found

    def _loss(self, batch: torch.Tensor, chance: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of the next items in (pieces, steps + 1) among those drawn for the whole batch."""
        inputs, targets = batch[:, :-1], batch[:, 1:]
        states = self._network(inputs)[targets != self._items]  # (next items, width)
        targets = targets[targets != self._items]  # (next items,)
        vectors, bias = self._network.vectors.weight, self._network.bias
        drawn = torch.multinomial(chance, DRAWN, replacement=True)
        others = states @ vectors[drawn].T + bias[drawn] - torch.log(DRAWN * chance[drawn])  # (next items, drawn)
        others = others.masked_fill(drawn == targets[:, None], -torch.inf)
        wanted = (states * vectors[targets]).sum(1) + bias[targets]  # (next items,)
        loss: torch.Tensor = (torch.logsumexp(torch.cat([wanted[:, None], others], 1), 1) - wanted).mean()
        return loss


def _pieces(wanted: Wanted, rng: np.random.Generator) -> Int64:
    """Each user's items in order, in pieces that overlap by one, filled up with `items`, (pieces, STEPS + 1)."""
    order = np.lexsort((rng.random(len(wanted.item)), wanted.ts, wanted.user))
    user, item = wanted.user[order], wanted.item[order].astype(np.int64)
    first = np.flatnonzero(np.diff(user, prepend=NOTHING))  # of each user
    events = np.diff(first, append=len(user))  # of each user
    place = np.arange(len(user)) - np.repeat(first, events)
    left = np.repeat(events, events) - place
    start = np.flatnonzero((place % STEPS == 0) & (left > 1))
    steps = np.arange(STEPS + 1)
    window = item[np.minimum(start[:, None] + steps, len(item) - 1)]
    return np.where(steps < left[start, None], window, wanted.items)


def _batches(pieces: Int64, empty: int, rng: np.random.Generator) -> list[Int64]:
    """Batches of about BATCH next items, in pieces of like length, (pieces, longest of them), in any order."""
    length = (pieces != empty).sum(1)  # (pieces,)
    order = np.lexsort((rng.random(len(pieces)), length))
    ends = np.flatnonzero(np.diff(np.cumsum(length[order] - 1) // BATCH)) + 1
    batches = [pieces[some, : length[some[-1]]] for some in np.split(order, ends) if len(some)]
    return [batches[at] for at in rng.permutation(len(batches))]


def _oldest_first(past: Int32, empty: int) -> tuple[Int64, Int64]:
    """What is there without gaps, `empty` behind it, (rows, longest), and how many that are, (rows,)."""
    there = past != NOTHING
    length = there.sum(1)  # (rows,)
    together = np.take_along_axis(past, np.argsort(~there, axis=1, kind="stable"), axis=1)  # newest first
    back = length[:, None] - 1 - np.arange(max(1, length.max(initial=0)))  # (rows, longest)
    sequences = np.where(back < 0, empty, np.take_along_axis(together, np.maximum(back, 0), axis=1))
    return sequences.astype(np.int64), length
