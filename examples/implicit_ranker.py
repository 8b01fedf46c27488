"""Alternating least squares of the `implicit` library in a backtest, beside the models that learn from every event.

    streamrec backtest sales.parquet --ranker examples.implicit_ranker:LeastSquares --out report

from the directory above this one, with `pip install implicit`. It is trained anew after every so many events, as a
nightly job would; in between, users who are new to it get what most people have touched.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from implicit.cpu.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix

from streamrec import Event


class LeastSquares:
    """Hu, Koren, Volinsky: Collaborative filtering for implicit feedback datasets, ICDM 2008."""

    name = "implicit als"

    def __init__(self, every: int = 5_000) -> None:
        """Trained after so many events, on all of them."""
        self.every = every
        self.touched: defaultdict[str, Counter[str]] = defaultdict(Counter)  # by user: items, and how often
        self.popular: Counter[str] = Counter()
        self.model: AlternatingLeastSquares | None = None

    def learn(self, events: Sequence[Event]) -> None:
        """Take note, and train when it is time."""
        before = self.popular.total() // self.every
        for event in events:
            if event.item_id is not None:
                self.touched[event.user_id][event.item_id] += 1
                self.popular[event.item_id] += 1
        if self.popular.total() // self.every > before:
            self._train()

    def _train(self) -> None:
        self.users = {user: row for row, user in enumerate(self.touched)}
        self.items = list(self.popular)
        column = {item: at for at, item in enumerate(self.items)}
        cells = [(self.users[user], column[i], n) for user, counts in self.touched.items() for i, n in counts.items()]
        rows, columns, counts = zip(*cells, strict=True)
        self.counts = csr_matrix((counts, (rows, columns)), (len(self.users), len(self.items)), dtype="float32")
        self.model = AlternatingLeastSquares(factors=64, random_state=0, num_threads=1)
        self.model.fit(self.counts, show_progress=False)

    def rank(self, user_id: str, candidates: Sequence[str] | None = None, k: int = 20) -> list[str]:
        """The items whose factors fit the user's best."""
        row = self.users.get(user_id) if self.model is not None else None
        if self.model is None or row is None:
            return [item for item, _ in self.popular.most_common(k)]
        k = min(k, len(self.items))
        best, _ = self.model.recommend(row, self.counts[row], N=k, filter_already_liked_items=False)
        return [self.items[at] for at in best]
