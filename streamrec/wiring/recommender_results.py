"""What a `Recommender` says beside slates: how well it did, and why. Prints in a terminal and in a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

from streamrec.engine.learning.ranking_metrics import RankingMetrics
from streamrec.events import Reason, Slate, SlateItem, TextTable


@dataclass(frozen=True, slots=True)
class PrequentialEvaluation:
    """How well each list did, every event predicted before it was learned. Prints as a table.

    `lists` has the fused list first, then each model alone. A target that was never seen before counts as missed.
    """

    lists: Mapping[str, RankingMetrics]

    @property
    def fused(self) -> RankingMetrics:
        """Of what is recommended."""
        return next(iter(self.lists.values()))

    def table(self) -> TextTable:
        """One row per list."""
        rows = [
            (name, f"{m.recall_10:.4f}", f"{m.recall_20:.4f}", f"{m.mrr_20:.4f}", f"{m.ndcg_10:.4f}")
            for name, m in self.lists.items()
        ]
        columns = ("", "Recall@10", "Recall@20", "MRR@20", "NDCG@10")
        return TextTable(f"{self.fused.targets:,} targets, each ranked before it was learned", columns, tuple(rows))

    def __str__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


@dataclass(frozen=True, slots=True)
class ItemExplanation:
    """Why an item is on a slate."""

    item: SlateItem
    title: str
    """The item's, or its id where none is known."""
    reason: Reason
    """The user's events that weighed most, and the rules applied."""

    @property
    def shares(self) -> dict[str, float]:
        """Each model's part of the score, in log-odds, the largest first."""
        return dict(sorted(self.item.shares.items(), key=lambda pair: (-abs(pair[1]), pair[0])))


@dataclass(frozen=True, slots=True)
class SlateExplanation:
    """Why each item is on a slate. Prints as a table; `items` has everything."""

    slate: Slate
    items: tuple[ItemExplanation, ...]

    @property
    def rules(self) -> tuple[str, ...]:
        """Every rule that was applied, each once."""
        return tuple(dict.fromkeys(rule for one in self.items for rule in one.reason.rules))

    def table(self) -> TextTable:
        """One row per place: what wanted it, by which events, with which probability it was put here, by which rules.

        Rules that hold for all of them are in the title.
        """
        every = [rule for rule in self.rules if all(rule in one.reason.rules for one in self.items)]
        rows = [
            (
                str(one.item.position),
                one.title,
                ", ".join(f"{model} {share:+.2g}" for model, share in islice(one.shares.items(), 3)),
                ", ".join(f"{cause} {fall:+.2g}" for cause, fall in one.reason.because),
                f"{one.item.propensity:.3g}",
                "; ".join(rule for rule in one.reason.rules if rule not in every),
            )
            for one in self.items
        ]
        columns = ("", "item", "wanted by", "because of", "propensity", "rules")
        title = f"{self.slate.scenario} for {self.slate.user_id}: {'; '.join(['why these', *every])}"
        return TextTable(title, columns, tuple(rows))

    def __str__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()
