"""Micro-batches of made-up visits for models: who touched which item when, each with a ranking that holds the item.

There are `ITEMS` items in ten categories, described by a category and two tags each. What was touched by a user is the
user's past, as the queries of later visits see it.
"""

from __future__ import annotations

import numpy as np

from streamrec.engine.arrays.batch import CANDIDATES, NOTHING, Int32, MicroBatch, Queries
from streamrec.engine.items.item_table import ItemTable
from streamrec.engine.items.text_encoders import Hashed, TextVectors
from streamrec.events import Item

CAPACITY, ITEMS, USERS = 256, 60, 32
BEGAN_MS = 1_700_000_000_000
MODELS = 13
"""Models that the scores of a batch have room for."""


class Visits:
    """The items, and the past of a few users; repeatable."""

    def __init__(self) -> None:
        self.table = ItemTable(CAPACITY)
        texts = TextVectors(Hashed(self.table.content.width), self.table.content.width)
        for number in range(ITEMS):
            index = self.table.intern(f"i{number}", BEGAN_MS)
            self.table.categorise(index, f"c{number % 10}")
            said = Item(item_id=f"i{number}", categories=(f"c{number % 10}",), tags=(f"t{number}", f"t{number // 7}"))
            self.table.content.set(index, texts.of_item(said))
        self.rng = np.random.default_rng(11)
        self.asked = 0
        self.past: dict[int, list[tuple[int, int]]] = {}  # per user, (item, ts), newest first

    def batch(self, visits: list[tuple[int, int, int]]) -> MicroBatch:
        """A micro-batch of (user, ts in ms, item), each with its own ranking of candidates that hold the item."""
        batch = MicroBatch.empty(len(visits), len(visits), MODELS, 4)
        for row, (user, ts, item) in enumerate(visits):
            self.ask(batch.queries, row, user, ts)
            others = self.rng.permutation(len(self.table))[: CANDIDATES // 2]
            offered = self.rng.permutation(np.union1d(others, [item]))
            batch.candidates.items[row, : len(offered)] = offered
            examples, recent = batch.examples, self.past.get(user, [])[: batch.examples.recent.shape[1]]
            examples.query[row], examples.item[row], examples.ts[row], examples.label[row] = row, item, ts, 1
            examples.recent[row, : len(recent)] = [earlier for earlier, _ in recent]
            examples.recent_steps[row, : len(recent)] = np.arange(len(recent))
            examples.session[row] = len(recent)
            self.past.setdefault(user, []).insert(0, (item, ts))
        batch.asked = batch.learned = len(visits)
        return batch

    def ask(self, queries: Queries, row: int, user: int, ts: int) -> None:
        """Fill one row with what is known of this user at that time."""
        past = self.past.get(user, [])[: queries.items.shape[1]]
        self.asked += 1
        queries.user[row], queries.ts[row], queries.seed[row] = 1_000 + user, ts, self.asked
        queries.items[row, : len(past)] = [item for item, _ in past]
        queries.steps[row, : len(past)] = np.arange(len(past))
        queries.ages_s[row, : len(past)] = [(ts - at) / 1000 for _, at in past]
        queries.session[row] = len(past)
        for slot, kind in enumerate(dict.fromkeys(int(self.table.category[item]) for item, _ in past)):
            if slot < queries.categories.shape[1]:
                queries.categories[row, slot], queries.affinity[row, slot] = kind, 1.0

    def questions(self, users: range, ts: int = BEGAN_MS + 10**7) -> Queries:
        """One query of each user, (users,)."""
        queries = Queries.empty(len(users))
        for row, user in enumerate(users):
            self.ask(queries, row, user, ts)
        return queries

    def walk(self, steps: int, start: int = BEGAN_MS) -> list[MicroBatch]:
        """People who each stay around a few items and go on from one to the next."""
        batches = []
        for step in range(steps):
            visits = []
            for user in range(USERS):
                last = self.past.get(user, [(user, 0)])[0][0]
                item = (last + 1 + int(self.rng.integers(2))) % ITEMS if self.rng.random() < 0.7 else user
                visits.append((user, start + 60_000 * step + user, item))
            batches.append(self.batch(visits))
        return batches


def everything(rows: int) -> Int32:
    """Every item, one that is not known, and an empty place, for each row, (rows, ITEMS + 2)."""
    return np.tile(np.array([*range(ITEMS), CAPACITY - 1, NOTHING], np.int32), (rows, 1))
