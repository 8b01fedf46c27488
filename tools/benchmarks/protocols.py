"""The protocols of the quality bench: each is a plain command line of `streamrec backtest`, and is run as just that.

One default configuration for all logs; a protocol says which rows of a log count and what is wanted, nothing else.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CLICKS = ("--positives", "click", "--collapse-repeats")


@dataclass(frozen=True, slots=True)
class Goal:
    """Figures of the fused list that are asked for. `stretch` is what would be something to be proud of."""

    metric: str
    reach: float
    stretch: float | None = None


@dataclass(frozen=True, slots=True)
class Protocol:
    """A log, the options that say what counts, and what is hoped for."""

    name: str
    log: str
    """Below the folder of logs."""
    options: tuple[str, ...]
    about: str
    """What the log is and what is predicted, in a sentence."""
    goals: tuple[Goal, ...] = ()
    held_out: bool = False
    """Nothing was ever chosen while looking at this log."""
    remark: str = ""
    """What others reached under this very protocol."""

    def command(self) -> str:
        """What to type, but for --seed and --out, with the logs in the folder STREAMREC_DATA."""
        return f"streamrec backtest $STREAMREC_DATA/{self.log} {shlex.join(self.options)}"

    def arguments(self, data: Path | str, limit: int | None = None) -> list[str]:
        """What `streamrec` is called with, but for --seed and --out; `limit` takes the first rows alone."""
        options = list(self.options) if limit is None else _limited(self.options, limit)
        return ["backtest", f"{data}/{self.log}", *options]


def _limited(options: Sequence[str], limit: int) -> list[str]:
    """The options with `--rows` cut to so many rows."""
    if "--rows" not in options:
        return [*options, "--rows", f"0:{limit}"]
    at = options.index("--rows") + 1
    first, _, last = options[at].partition(":")
    return [*options[:at], f"{first}:{min(int(first) + limit, int(last))}", *options[at + 1 :]]


def _goals(recall_10: tuple[float, float], mrr_20: tuple[float, float]) -> tuple[Goal, ...]:
    return Goal("recall_10", *recall_10), Goal("mrr_20", *mrr_20)


def _by_name(*protocols: Protocol) -> Mapping[str, Protocol]:
    return {protocol.name: protocol for protocol in protocols}


PROTOCOLS = _by_name(
    Protocol(
        "ml100k",
        "ml100k/events.parquet",
        ("--map", "type=event", "--positives", "rating>=4", "--exclude-seen"),
        "MovieLens 100K: the next film rated 4 or 5; every film that was rated is excluded afterwards",
        _goals((0.205, 0.22), (0.085, 0.092)),
    ),
    Protocol(
        "globo-150k",
        "globo/events.parquet",
        ("--map", "type=event", "--rows", "400000:550000", *CLICKS),
        "Globo.com news: the next article clicked, over sixteen hours",
        _goals((0.65, 0.67), (0.32, 0.335)),
    ),
    Protocol(
        "yoochoose100k",
        "yoochoose100k/events.parquet",
        ("--map", "type=event", *CLICKS),
        "Yoochoose: the next product clicked in short anonymous sessions",
        _goals((0.385, 0.40), (0.205, 0.215)),
    ),
    Protocol(
        "online_retail",
        "online_retail/events.parquet",
        (
            *("--map", "type=event", "--skip-unknown-types", "--only-items", r"^\d{5}"),
            *("--anonymous", "anon", "--once-per-session"),
        ),
        "UCI Online Retail: every product of a basket, before any of it is known, so that Recall@10 cannot pass .31; a "
        "basket without a customer is a user of its own",
        _goals((0.078, 0.088), (0.030, 0.034)),
    ),
    Protocol(
        "ml100k-gorse",
        "ml100k/events.parquet",
        ("--map", "type=event", "--positives", "rating>=1", "--exclude-seen", "--warmup", "0.8"),
        "MovieLens 100K: the next film rated at all, over the last fifth of the ratings",
        (Goal("recall_10", 0.18, 0.20),),
        remark="Gorse 0.5.11, refreshed each minute, reached .133 of Recall@10 over 14,259 of these targets with its "
        "recommend API, .156 over the first 4,000 with its session API, and its popularity .082",
    ),
    Protocol(
        "ml1m_pos_2000q2",
        "ml1m_pos_2000q2/events.parquet",
        ("--map", "type=event", "--map-type", "like5=like", "--positives", "like", "--exclude-seen"),
        "MovieLens 1M, five-star ratings of May to July 2000: the next of them; each is excluded afterwards",
        held_out=True,
    ),
    Protocol(
        "trivago100k",
        "trivago100k/events.parquet",
        (
            *("--map", "type=event", "--map-type", "clickout item=click"),
            *(
                option
                for what in ("image", "info", "rating", "deals")
                for option in ("--map-type", f"interaction item {what}=view")
            ),
            *("--skip-unknown-types", "--positives", "click,view", "--collapse-repeats"),
        ),
        "Trivago: the next hotel that a session looks at or clicks through to",
        held_out=True,
    ),
)
"""By name, in the order of the results page."""
