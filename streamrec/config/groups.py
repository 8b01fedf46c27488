"""Settings: small frozen groups with defaults that work on a laptop, checked once at start, passed inward as values.

Sources, later ones win: the defaults here, a TOML file, `STREAMREC_...` environment variables, command-line options.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from streamrec.config import parts
from streamrec.config.log_lines import get_logger
from streamrec.config.places import PLACE_FORMS, place_of
from streamrec.config.secrets import note_secrets
from streamrec.errors import ConfigError
from streamrec.events import EventType

LOG = get_logger("streamrec.config")
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
    examples: str = "examples"
    """What events teach, for the learner: one partition, so one order."""
    model_updates: str = "model-updates"
    """What changed in the models, for the workers."""
    trends: str = "item-trends"
    """Windowed counts per item, compacted."""
    dead_letters: str = "user-events.dlq"
    """Messages that could not be used, as read, with the reason in headers."""
    partitioner: Literal["murmur2", "crc32", "other"] = "murmur2"
    """How producers of events place keys: as Java clients, as librdkafka does by default, or some way not checked."""
    partitions: Count = 6
    """Partitions of each topic made by `streamrec topics apply`."""
    replication_factor: Count = 1
    """Replicas of each topic made by `streamrec topics apply`; 3 in production."""
    retention_ms: Annotated[int, Field(ge=-1)] = 604_800_000
    """How long events and slates are kept; -1 for ever. Dead letters and outcomes are kept four times as long."""


class Redis(Group):
    """Where state lives."""

    url: str = "redis://127.0.0.1:6379/0"
    """redis://, rediss:// or unix:// URL, or one of Sentinels or a cluster; `streamrec config` hides its password."""
    password_file: Path | None = None
    """A file that holds the password, in place of one in the URL."""
    prefix: str = "streamrec"
    """First part of every key, so that several systems can share a server."""
    user_ttl_s: Annotated[int, Field(ge=60)] = 90 * 24 * 3600
    """Users and items not touched for so long are forgotten; watermarks never are."""
    timeout_s: Seconds = 10.0
    """How long one command may take before Redis counts as away."""
    allow_eviction: bool = False
    """Take a server whose maxmemory-policy is not noeviction; what it evicts is treated by checkpoints.on_gap."""

    def full_url(self) -> str:
        """The URL with the password that the file holds, if there is one; not to be shown.

        Raises:
            ConfigError: the file cannot be read, is empty, or the URL has a password of its own.
        """
        if self.password_file is None:
            return self.url
        scheme, marks, rest = self.url.partition("://")
        account, _, place = rest.rpartition("@")
        user, colon, _ = account.partition(":")
        if colon or not marks:
            raise ConfigError(
                "redis.password_file is set and redis.url has a password, or is no URL; leave the password to the file"
            )
        password = _password_in(self.password_file)
        note_secrets({}, password)
        return f"{scheme}://{user}:{quote(password, safe='')}@{place}"


def _password_in(file: Path) -> str:
    try:
        password = file.read_text(encoding="utf-8").rstrip("\r\n")
        open_to_all = file.stat().st_mode & stat.S_IROTH
    except (OSError, UnicodeDecodeError) as error:
        detail = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(
            f"redis.password_file {file} cannot be read: {detail}; give a file with the password"
        ) from None
    if not password:
        raise ConfigError(f"redis.password_file {file} is empty, expected the password; write it there")
    if open_to_all:
        LOG.warning("a file with a password can be read by every user; `chmod o-r`", file=str(file))
    return password


class Limits(Group):
    """Bounds on input and memory."""

    max_message_bytes: Count = 65_536
    """A larger message goes to the dead-letter topic undecoded."""
    max_depth: Count = 8
    """A more deeply nested message goes to the dead-letter topic."""
    max_bad_in_a_row: Count = 1_000
    """So many unusable messages in a row stop the worker: the producer is broken, not a message."""
    max_ahead_s: Seconds = 300.0
    """An event dated further than this after its message goes to the dead-letter topic; up to it, it counts as then."""
    max_behind_s: Seconds | None = None
    """An event dated further than this before its message was sent goes there too; unset, old logs may be sent."""
    max_drift_s: Seconds = 21_600.0
    """While there is a backlog, no partition is read further than this ahead of the slowest, in log time."""
    require_key: bool = True
    """A message without a key goes there too: a user's events would be spread over partitions."""
    max_users: Count = 200_000
    """Users kept in memory; the longest idle leave first and come back from the store when they return."""
    max_items: Count = 131_072
    """Items known to the models; the longest unseen are forgotten first."""
    max_catalogue: Count = 262_144
    """Items of the catalogue kept in memory; of more, the longest unchanged are as if they were not in it."""


HASHED = "hashed"
"""The encoder that needs no model."""
ALONE = "model:"
"""Before a model's name: the policy that ranks by that model alone."""


def preset_settings(name: str) -> Mapping[str, Mapping[str, Any]]:
    """Settings that belong together; every other source of settings goes before them. The default's are none."""
    if name != "fast":
        return {}
    return {"learning": {"models": parts.default_models("fast")}, "fusion": {"form": "linear"}}


def _model(name: str) -> str:
    if name in parts.models():
        return name
    raise PydanticCustomError("model", f"Input should be {_either([repr(known) for known in parts.models()])}")


def _either(names: Sequence[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]])


class Learning(Group):
    """What is learned from, by which models, and in which micro-batches."""

    models: tuple[Annotated[str, AfterValidator(_model)], ...] = Field(default_factory=parts.default_models)
    """The models that learn and score; `popularity` is always needed, for short lists are filled up with it."""
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
    rollback_after: Count = 8
    """A model that harms so many learning cuts is taken out and goes back to its last good snapshot."""
    content_width: Annotated[int, Field(ge=16, le=1024)] = 256
    """Numbers of a content vector; longer ones that the catalogue gives, or an encoder makes, are folded."""
    encoder: Annotated[str, Field(min_length=1)] = HASHED
    """What makes content vectors of texts: hashed words, or a sentence-transformers model, its directory or name."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the torch model learns; auto takes the GPU when there is one."""
    seed: int = 0
    """Every random draw is a function of this and of the input position."""


def _policy(name: str) -> str:
    if name in parts.policies() or (name.startswith(ALONE) and name.removeprefix(ALONE) in parts.models()):
        return name
    raise PydanticCustomError("policy", f"Input should be {_either([*parts.policies(), ALONE + 'NAME'])}")


def _teacher(name: str) -> str:
    return name if name == "site" else _policy(name)


PolicyName = Annotated[str, AfterValidator(_policy)]


class FusionSettings(Group):
    """The bandit over model scores."""

    policy: PolicyName = "plackett-luce"
    """What orders slates: a policy by name, or model:NAME for one model alone."""
    temperature: Annotated[float, Field(gt=0, le=10)] = 0.25
    """Of the Plackett-Luce draw: lower is closer to the plain order."""
    explore: Annotated[float, Field(ge=0, le=1)] = 0.02
    """Share of places that are given to a candidate drawn by uncertainty, by every policy that explores."""
    particles: Annotated[int, Field(ge=1, le=64)] = 8
    """Weight vectors drawn from the posterior after each micro-batch; propensities are exact over them."""
    forgetting: Annotated[float, Field(gt=0.9, le=1)] = 0.9999
    """How much of the posterior's certainty is kept per learned event."""
    form: Literal["linear", "mlp"] = "mlp"
    """linear weighs what the models say; mlp adds a small network's correction, weighed like a model's word."""
    learn_outcomes: bool = True
    """Learn from what came of slates, not only from what people did by themselves."""
    importance: Literal["none", "inverse"] = "none"
    """inverse weighs what is learned from a slate by how unlikely it was; none trusts the choice model."""


class Attribution(Group):
    """What later events say of a slate, and when its outcomes are final."""

    window_s: Seconds = 3_600.0
    """An event within this time of a slate, in log time, is credited to it; then its outcomes are published."""
    lateness_s: Annotated[float, Field(ge=0)] = 60.0
    """How long after the window outcomes wait for events that come late."""
    seen: Literal["impressions", "responses", "all"] = "all"
    """What was seen of a slate without impressions: nothing, all down to the lowest response, or all of it."""
    reward: Literal["first", "sum", "max"] = "max"
    """Which of the events that followed an item count: the earliest, all together, or the most valuable."""
    values: Mapping[EventType, Annotated[float, Field(ge=-1, le=1)]] = Field(
        default_factory=lambda: {
            EventType.VIEW: 0.1,
            EventType.CLICK: 0.2,
            EventType.LIKE: 0.5,
            EventType.ADD_TO_CART: 0.5,
            EventType.PURCHASE: 1.0,
            EventType.SKIP: -0.1,
            EventType.DISLIKE: -0.5,
        }
    )
    """What an event of each type is worth; types that are not named are worth nothing."""
    max_open_per_user: Annotated[int, Field(ge=1, le=64)] = 8
    """Slates of one user that wait for their outcomes; the oldest is closed early when there are more."""
    max_open: Count = 50_000
    """Slates of a worker that wait for their outcomes; the oldest are closed early when there are more."""


class Rollout(Group):
    """Which policy answers which user."""

    mode: Literal["online", "canary", "shadow", "apprentice"] = "online"
    """online: all users get the policy. canary: a share of users. shadow, apprentice: the baseline answers."""
    baseline: PolicyName = "model:popularity"
    """The policy that answers when the fusion's does not."""
    share: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of users who get the policy in a canary."""
    arms: Mapping[PolicyName, Annotated[float, Field(ge=0, le=1)]] = Field(default_factory=dict)
    """An experiment online: share of users by policy, the others get fusion.policy. Add arms last; end one with 0."""
    interleave: tuple[PolicyName, ...] = ()
    """Two policies that pick in turns for one slate (team draft), online, in place of fusion.policy."""
    salt: str = "streamrec"
    """Users are split by a hash of this and their id: a new salt splits them anew."""
    evaluate: tuple[PolicyName, ...] = ()
    """Policies whose choices are logged beside every slate, so that they can be valued from its outcomes."""
    imitate: Annotated[str, AfterValidator(_teacher)] = "site"
    """What an apprentice imitates: the order in the site's own impressions, or a policy."""


class Serving(Group):
    """Which events are answered, and how long an answer is kept."""

    recommend_on: frozenset[EventType] = frozenset({EventType.REQUEST, EventType.SEARCH})
    """Event types that are answered with a slate."""
    k: Annotated[int, Field(ge=1, le=100)] = 20
    """Items of a slate when the request does not say."""
    slate_ttl_s: Annotated[int, Field(ge=1)] = 7 * 24 * 3600
    """How long the latest slate of a user is kept in the store."""
    listed_only: bool = False
    """Recommend nothing that is not in the catalogue."""
    search: bool = True
    """Keep an index of the catalogue's words, for requests with a query."""
    requests_at_once: Count = 100
    """Requests and searches of one user that are answered in one go; beyond, they are refused."""
    requests_per_s: Seconds = 10.0
    """So many more of them are answered for each second, in log time."""


class Checkpointing(Group):
    """How often state and models are saved together."""

    interval_s: Seconds = 2.0
    """At least this long between two checkpoints..."""
    share: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    """...and at most this share of the time spent on them: large models are saved less often."""
    handover_s: Seconds = 20.0
    """How long a checkpoint may take when partitions are handed over or the worker is stopped; then it is left out."""
    on_gap: Literal["fail", "skip"] = "fail"
    """When the log lost records unread, or Redis values: fail stops the worker; skip counts them and goes on."""


class LearnerSettings(Group):
    """Who learns, and how workers hear of it."""

    where: Literal["beside", "elsewhere", "within"] = "beside"
    """beside: each worker starts a learner, and Kafka lets one learn. elsewhere: `streamrec learner` runs apart.
    within: a worker learns by itself, from its own partitions alone."""
    publish_every_s: Seconds = 0.5
    """How often workers are told what changed in the models."""
    snapshot_every: Annotated[int, Field(ge=100)] = 10_000
    """Records of the examples between two snapshots; so many at most are learned again after a failover."""
    metrics_port: Annotated[int, Field(ge=1, le=65_535)] | None = None
    """Where a learner answers /metrics, /livez and /readyz; nowhere by default."""


def _place(url: str) -> str:
    try:
        place_of(url)
    except ValueError:
        raise PydanticCustomError("place", f"Input should be {PLACE_FORMS}") from None
    return url


class SnapshotSettings(Group):
    """Where models are kept, and how many times."""

    url: Annotated[str, AfterValidator(_place)] = "streamrec-snapshots"
    """A directory, or one in object storage, s3://BUCKET/DIRECTORY?region=REGION or gs://BUCKET/DIRECTORY."""
    keep: Annotated[int, Field(ge=2)] = 3
    """Complete snapshots kept."""


class TrendsSettings(Group):
    """What `streamrec trends` counts, where it publishes, and whether workers listen."""

    windows_s: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1, max_length=6)] = (
        300,
        3_600,
        86_400,
    )
    """Lengths of the windows, shortest first; other lengths begin anew, with counts of their own."""
    emit_every_s: Seconds = 5.0
    """How often changed counts are published and kept; what came since is counted again after a crash."""
    max_items: Count = 50_000
    """Items and categories counted in each input partition; the least active leave."""
    stall_s: Annotated[float, Field(ge=5)] = 120.0
    """Offsets that stand still for so long while the log grows end the process, with exit code 1."""
    web_port: Annotated[int, Field(ge=1, le=65_535)] | None = None
    """Where GET /trends answers; nowhere by default."""
    web_host: str = "127.0.0.1"
    """The address it answers on."""
    read: bool = True
    """Workers follow the trends topic."""
    stale_after_s: Seconds = 900.0
    """Trends that are older than this by the log's own time are not used, and slates say so."""
    rehearse: bool = False
    """Where no topic is followed (a backtest, a warm-up), count trends though no model scores by them."""


class GatewaySettings(Group):
    """Where `streamrec serve` answers over HTTP, whom, and within which bounds."""

    host: str = "127.0.0.1"
    """The address; another one needs keys."""
    port: Annotated[int, Field(ge=1, le=65_535)] = 8080
    """The port."""
    keys: tuple[str, ...] = ()
    """Who may ask: SHA256 ROLE[+ROLE] [PER_S] each: a key's hash, its roles (write, ask, admin), requests a second."""
    keys_file: Path | None = None
    """A file with a key like that on each line."""
    allow_anonymous: bool = False
    """Take everybody, without keys, on any address: for a proxy that checks who comes."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may ask from a browser, as https://shop.example; none by default."""
    tls_cert: Path | None = None
    """Certificate chain (PEM); without it, plain HTTP."""
    tls_key: Path | None = None
    """Its private key (PEM)."""
    deadline_ms: Annotated[int, Field(ge=1, le=10_000)] = 200
    """How long a request waits for its slate when it does not say; then another one answers, marked as degraded."""
    max_body_bytes: Count = 4_194_304
    """A larger body is refused, packed or unpacked."""
    max_waiting: Count = 256
    """Requests that are answered at once; more are refused with 503."""
    unknown_fields: Literal["refuse", "ignore"] = "refuse"
    """What becomes of an event or item with a field that nobody knows."""
    metrics: Annotated[tuple[Annotated[str, Field(pattern=r"^[^\s/]+:[0-9]{1,5}$")], ...], Field(max_length=64)] = ()
    """HOST:PORT of workers and learners whose /metrics and /readyz the window at / shows: their metrics_port."""
