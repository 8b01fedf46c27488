"""Settings: small frozen groups with defaults that work on a laptop, checked once at start, passed inward as values.

Sources, later ones win: the defaults here, a TOML file, `STREAMREC_...` environment variables, command-line options.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from streamrec.events import EventType

Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Group(BaseModel):
    """A frozen group of settings; an unknown name is an error, not a silent nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Topics(Group):
    """Names and shape of the topics."""

    events: str = "user-events"
    """The one input: events and requests, keyed by user_id."""
    items: str = "items"
    """Catalogue upserts, keyed by item_id, compacted."""
    recommendations: str = "recommendations"
    """Slates, keyed by user_id."""
    outcomes: str = "outcomes"
    """Attributed reward per shown item."""
    trends: str = "item-trends"
    """Windowed counts per item, compacted."""
    dead_letters: str = "user-events.dlq"
    """Messages that could not be used, as read, with the reason in headers."""
    partitions: Count = 6
    """Partitions of each topic made by `streamrec topics apply`."""
    replication_factor: Count = 1
    """Replicas of each topic made by `streamrec topics apply`; 3 in production."""
    retention_ms: Annotated[int, Field(ge=-1)] = 604_800_000
    """How long events and slates are kept; -1 for ever. Dead letters and outcomes are kept four times as long."""


class Redis(Group):
    """Where state lives."""

    url: str = "redis://127.0.0.1:6379/0"
    """redis://, rediss:// or unix:// URL; a password in it is hidden in `streamrec config`."""
    prefix: str = "streamrec"
    """First part of every key, so that several systems can share a server."""
    user_ttl_s: Annotated[int, Field(ge=60)] = 90 * 24 * 3600
    """Users and items not touched for so long are forgotten; watermarks never are."""
    timeout_s: Seconds = 10.0
    """How long one command may take before the worker stops."""


class Limits(Group):
    """Bounds on input and memory."""

    max_message_bytes: Count = 65_536
    """A larger message goes to the dead-letter topic undecoded."""
    max_depth: Count = 8
    """A more deeply nested message goes to the dead-letter topic undecoded."""
    max_bad_in_a_row: Count = 1_000
    """So many unusable messages in a row stop the worker: the producer is broken, not a message."""
    max_ahead_s: Seconds = 86_400.0
    """An event dated further than this after its message was sent goes to the dead-letter topic."""
    max_users: Count = 200_000
    """Users kept in memory; the longest idle leave first and come back from the store when they return."""
    max_items: Count = 131_072
    """Items known to the models; the longest unseen are forgotten first."""


MODELS = (
    "popularity_minutes",
    "popularity",
    "popularity_days",
    "covisit",
    "covisit_recent",
    "transitions",
    "sessions",
    "repeats",
    "clicks",
    "factors",
    "sequence",
)
"""Every model there is."""
DEFAULT_MODELS = tuple(name for name in MODELS if name != "factors")
"""Those that add something somewhere when the others are there."""
PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "default": {},
    "fast": {
        "learning": {
            "models": (
                "popularity_minutes",
                "popularity",
                "popularity_days",
                "covisit_recent",
                "transitions",
                "repeats",
            ),
        },
        "fusion": {"form": "linear"},
    },
}
"""Settings that belong together; every other source of settings goes before them."""


class Learning(Group):
    """What is learned from, by whom, and in which portions."""

    models: tuple[Literal[MODELS], ...] = DEFAULT_MODELS  # type: ignore[valid-type]
    """Who learns and scores; `popularity` is always needed, for short lists are filled up with it."""
    positives: tuple[str, ...] = ("view", "click", "add_to_cart", "purchase", "like", "rating>=4")
    """Event types that count as interest; `type>=value` asks for a least value."""
    micro_batch: Count = 32
    """Models learn after so many events, counted in the log..."""
    micro_batch_s: Seconds = 30.0
    """...or when the log's own clock has moved so far since the first of them."""
    exclude_seen: bool = False
    """Never recommend what the user has touched before (films, articles); leave off for shops with repeat purchases."""
    collapse_repeats: bool = False
    """Learn a session's consecutive repeats of one item once."""
    session_gap_s: Seconds = 1_800.0
    """Without a session_id, a pause this long starts a new session."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the torch model learns; auto takes the GPU when there is one."""
    seed: int = 0
    """Every random draw is a function of this and of the input position."""


class Fusion(Group):
    """The bandit over model scores."""

    policy: Literal["thompson", "greedy"] = "thompson"
    """thompson explores (weights drawn from the posterior, Plackett-Luce order); greedy takes the best by the mean."""
    temperature: Annotated[float, Field(gt=0, le=10)] = 0.25
    """Of the Plackett-Luce draw: lower is closer to the plain order."""
    particles: Annotated[int, Field(ge=1, le=64)] = 8
    """Weight vectors drawn from the posterior after each micro-batch; propensities are exact over them."""
    forgetting: Annotated[float, Field(gt=0.9, le=1)] = 0.9999
    """How much of the posterior's certainty is kept per learned event."""
    form: Literal["linear", "mlp"] = "mlp"
    """linear weighs what the models say; mlp adds a small network's correction, weighed like a model's word."""


class Serving(Group):
    """Which events are answered, and how long an answer is kept."""

    recommend_on: frozenset[EventType] = frozenset({EventType.REQUEST, EventType.SEARCH})
    """Event types that are answered with a slate."""
    k: Annotated[int, Field(ge=1, le=100)] = 20
    """Items of a slate when the request does not say."""
    slate_ttl_s: Annotated[int, Field(ge=1)] = 7 * 24 * 3600
    """How long the latest slate of a user is kept in the store."""
    attribution_window_s: Seconds = 24 * 3600.0
    """A click, cart or purchase within this time of a slate, in log time, is credited to it."""


class Checkpointing(Group):
    """How often and where state and models are saved together."""

    interval_s: Seconds = 2.0
    """At least this long between two checkpoints..."""
    share: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    """...and at most this share of the time spent on them: large models are saved less often."""
    directory: Path = Path("streamrec-snapshots")
    """Where model snapshots are written."""
    keep: Annotated[int, Field(ge=2)] = 3
    """Complete snapshots kept."""
