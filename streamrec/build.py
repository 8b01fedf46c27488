"""Where the parts are put together: the only place that names concrete classes.

A new model, retriever, feature, store or transport is one new file and one line here; that line enrols it in the
contract tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from streamrec.catalogue import Catalogue, read_catalogue
from streamrec.config import HASHED, MODELS
from streamrec.errors import ConfigError
from streamrec.revisions import Mode, Revision

if TYPE_CHECKING:
    from streamrec.features.encoders import Encoder, TextVectors
    from streamrec.features.items import ItemTable
    from streamrec.features.listing import Listing
    from streamrec.features.trends import Teller
    from streamrec.intake import Tolerance
    from streamrec.models import Model
    from streamrec.open_slates import Charge, OpenSlates
    from streamrec.policies import Policy
    from streamrec.portions import Portion
    from streamrec.recommender import Recommender
    from streamrec.retrieval import Retriever
    from streamrec.revisions import Book
    from streamrec.rollout import Plan
    from streamrec.rulings import Searcher
    from streamrec.scenarios import Scenario
    from streamrec.settings import Settings
    from streamrec.state import Store
    from streamrec.state.redriven import Redriven
    from streamrec.state.snapshots import SnapshotShelf
    from streamrec.transport import Follower, Record, Sink, Source
    from streamrec.worker import Worker

MINUTE_S, HOUR_S, DAY_S = 60.0, 3_600.0, 86_400.0
BASELINE = "popularity"
"""The popularity that every list is filled up with and compared to."""
HALF_LIVES_S: Mapping[str, float] = {
    "popularity_minutes": 5 * MINUTE_S,
    BASELINE: 6 * HOUR_S,
    "popularity_days": 14 * DAY_S,
}
"""Which one matters differs by log and by hour, and the fusion finds out."""
PRIOR_WEIGHTS: Mapping[str, float] = {"popularity_days": 2.0}
"""Whom the fusion trusts at first: while nobody has learned much, what sells anyway is the safest answer."""
RECENT_FADE = 0.75
"""Of co-visitation as the last few items see it."""
SLATES_HELD = 10_000
"""Users whose open slates are kept in memory, some 8 kB a slate; the others' lie in the store."""
STATEMENTS_PER_ITEM = 4
"""Statements on trends that are kept, for each of limits.max_items: one for each partition that wanted an item."""
STEADY_THREADS = 1
"""Arithmetic threads: results must not depend on how a sum was split, and the small products here gain nothing."""


def build_models(settings: Settings, items: ItemTable, trends: Teller | None = None) -> dict[str, Model]:
    """The models of a configuration, by name, untaught. `trends` says what is gaining; None: it is counted here.

    Imported here: river and torch take seconds, and many commands need neither.

    Raises:
        ConfigError: the popularity that short lists are filled up with is missing.
    """
    from streamrec.features.trends import TRENDS
    from streamrec.models.clicks import ClickModel
    from streamrec.models.content import ContentModel
    from streamrec.models.covisit import CoVisitation, CoVisitationView
    from streamrec.models.factors import Factorisation
    from streamrec.models.popularity import Popularity
    from streamrec.models.repeats import Repeats
    from streamrec.models.sequence import SequenceModel
    from streamrec.models.sessions import SessionNeighbours
    from streamrec.models.transitions import Transitions
    from streamrec.models.trends import TrendModel

    capacity, seed = settings.limits.max_items, settings.learning.seed
    wanted = settings.learning.models
    if BASELINE not in wanted:
        raise ConfigError(f"learning.models lacks {BASELINE!r}, which fills short lists up; add it")
    models: dict[str, Model] = {}

    def covisit_recent(name: str) -> Model:
        whole = models.get("covisit")
        if isinstance(whole, CoVisitation):  # one table is enough for both
            return CoVisitationView(name, whole.table, RECENT_FADE)
        return CoVisitation(name, 90 * DAY_S, capacity, fade=RECENT_FADE)

    makers: dict[str, Callable[[str], Model]] = {
        **{name: partial(Popularity, half_life_s=life, capacity=capacity) for name, life in HALF_LIVES_S.items()},
        "covisit": lambda name: CoVisitation(name, 90 * DAY_S, capacity),
        "covisit_recent": covisit_recent,
        "transitions": lambda name: Transitions(name, 7 * DAY_S, capacity),
        "sessions": lambda name: SessionNeighbours(name, capacity),
        "repeats": lambda name: Repeats(name, capacity),
        "content": lambda name: ContentModel(name, items),
        "clicks": lambda name: ClickModel(name, items, weighted=settings.fusion.importance == "inverse"),
        "factors": lambda name: Factorisation(name, capacity, seed=seed),
        "sequence": lambda name: SequenceModel(
            name, capacity, device=torch_device(settings.learning.device), seed=seed
        ),
        TRENDS: lambda name: TrendModel(name, build_trends(settings, items, told=False) if trends is None else trends),
    }
    for name, make in makers.items():
        if name in wanted:
            models[name] = make(name)
    return models


def build_trends(settings: Settings, items: ItemTable, *, told: bool) -> Teller:
    """Who knows what is gaining: `told` by the trends topic, or by counting in this process."""
    from streamrec.features.trend_counts import TrendCounts
    from streamrec.features.trend_statements import Statements
    from streamrec.features.trends import TrendTable

    trends = settings.trends
    table = TrendTable(items.capacity, trends.windows_s, trends.stale_after_s)
    return (
        Statements(table, items, STATEMENTS_PER_ITEM * items.capacity)
        if told
        else TrendCounts(table, trends.emit_every_s)
    )


def build_retrievers(models: Mapping[str, Any], listing: Listing) -> list[Retriever]:
    """Every retriever, over what the models learn and what the catalogue lists."""
    from streamrec.models.content import POOL
    from streamrec.retrieval.covisit import Neighbours
    from streamrec.retrieval.fresh import Fresh
    from streamrec.retrieval.nearest import Nearest
    from streamrec.retrieval.popular import Popular

    spreading = ("repeats", "transitions", "covisit", "covisit_recent", "sessions")
    popularities = [name for name in HALF_LIVES_S if name in models]
    retrievers: list[Retriever] = [Neighbours(name, models[name]) for name in spreading if name in models]
    if "sequence" in models:
        retrievers.append(Nearest("nearest", models["sequence"], models[popularities[-1]]))
    if "content" in models:
        retrievers.append(Nearest("content", models["content"], models["content"], POOL))
    if "trends" in models:
        retrievers.append(Popular("trends", models["trends"]))
    retrievers.append(Fresh("fresh", listing))
    return retrievers + [Popular(name, models[name]) for name in popularities]


def build_recommender(
    settings: Settings, catalogue: Catalogue | None = None, *, eager: bool = True, told: bool = False
) -> Recommender:
    """The recommender of a configuration, untaught.

    Without `eager`, items of the catalogue that do not say when they were added are known from their first event on.
    `told`: a topic will say what the trends are; else they are counted here, if anybody asks for them.

    Raises:
        ConfigError: the positives are not rules.
    """
    from streamrec.answers import Answers
    from streamrec.click_chance import ClickChance
    from streamrec.contribution import Contribution
    from streamrec.features.ads import Ads
    from streamrec.features.affinity import Affinity
    from streamrec.features.bought import Bought
    from streamrec.features.counts import Counts
    from streamrec.features.doubt import Doubt
    from streamrec.features.duplicates import Duplicates
    from streamrec.features.encoders import TextVectors, described
    from streamrec.features.history import History
    from streamrec.features.items import ItemTable
    from streamrec.features.listing import Listing
    from streamrec.features.prices import Prices
    from streamrec.features.seen import Seen
    from streamrec.features.shown import Shown
    from streamrec.features.trends import TRENDS
    from streamrec.features.users import Family, UserTable
    from streamrec.fusion import Fusion
    from streamrec.interest import GAINS, Interest
    from streamrec.models.trends import TrendModel
    from streamrec.policies.roster import Roster
    from streamrec.progress import Progress
    from streamrec.recommender import Knowledge, Recommender, Tempo
    from streamrec.retrieval.ads import Affordable
    from streamrec.retrieval.newest import Newest
    from streamrec.retrieval.popular import Popular
    from streamrec.retrieval.text import TextIndex
    from streamrec.rulings import Rules

    learning, fusion = settings.learning, settings.fusion
    interest = Interest(learning.positives)
    if settings.limits.max_items < 2 * learning.micro_batch:
        raise ConfigError(
            f"limits.max_items is {settings.limits.max_items}, expected at least {2 * learning.micro_batch}: "
            "twice learning.micro_batch, so that a micro-batch of new items finds room"
        )
    steady_arithmetic()
    items = ItemTable(settings.limits.max_items, learning.content_width)
    described_items = settings.serving.search or "content" in learning.models
    texts = TextVectors(build_encoder(settings), learning.content_width) if described_items else None
    listing = Listing(
        items,
        settings.limits.max_catalogue,
        eager=eager,
        listed_only=settings.serving.listed_only,
        texts=texts,
        index=TextIndex() if settings.serving.search else None,
    )
    listed = (catalogue or {}).values()
    for item in described(listed, texts.encoder) if texts else listed:
        listing.take(item)
    ads = Ads(items, listing.bids, ClickChance(), settings.topics.partitions)
    history = History(0, learning.session_gap_s, learning.collapse_repeats)
    counts = Counts(0)
    affinity = Affinity(0, items.category, GAINS, items.category_names, items.category_code)
    prices = Prices(0, listing.facts.price, GAINS)
    duplicates = Duplicates(0)
    doubt = Doubt(settings.limits.max_items)
    seen = Seen() if learning.exclude_seen else None
    scenarios = build_scenarios(settings)
    bought = Bought() if any(one.left_out.bought_within_s for one in scenarios.values()) else None
    shown = Shown() if any(one.left_out.shown_at_most for one in scenarios.values()) else None
    optional: list[Family | None] = [seen, bought, shown]
    families: list[Family] = [
        history,
        counts,
        affinity,
        prices,
        duplicates,
        *(one for one in optional if one is not None),
    ]
    users = UserTable(settings.limits.max_users, families, items)
    asked_for = told or settings.trends.rehearse or TRENDS in learning.models
    trends = build_trends(settings, items, told=told) if asked_for else None
    models = build_models(settings, items, trends)
    unranked = [TrendModel(TRENDS, trends)] if trends is not None and TRENDS not in models else []
    judge = Fusion(
        list(models),
        particles=fusion.particles,
        forgetting=fusion.forgetting,
        seed=learning.seed,
        prior=PRIOR_WEIGHTS,
        form=fusion.form,
        learn_outcomes=fusion.learn_outcomes,
        weighted=fusion.importance == "inverse",
    )
    return Recommender(
        Knowledge(
            users,
            items,
            listing,
            history,
            counts,
            affinity,
            prices,
            duplicates,
            doubt,
            seen,
            bought,
            shown,
            trends,
            ads,
        ),
        list(models.values()),
        build_retrievers(models, listing),
        judge,
        Answers(
            list(models.values()),
            judge,
            items,
            listing.boost,
            Roster(partial(build_policy, settings)),
            build_plan(settings),
            settings.serving.k,
            settings.rollout.imitate,
            doubt,
            lambda now_ms: (TRENDS,) if trends is not None and trends.table.stale(now_ms) else (),
            ads,
        ),
        Rules(
            scenarios,
            items,
            listing,
            seen,
            bought,
            shown,
            list(models),
            {model.name: model for model in unranked},
            build_searchers(items, listing, texts),
            ads,
        ),
        interest,
        Tempo(
            learning.micro_batch,
            learning.micro_batch_s,
            learning.seed,
            settings.serving.recommend_on,
        ),
        Progress(["fused", *models]),
        Contribution(settings.limits.max_items),
        fill=BASELINE,
        rollback_after=learning.rollback_after,
        special=[
            Newest("newest", items),
            Affordable("ads", ads),
            *(Popular(model.name, model) for model in unranked),
        ],
        unranked=unranked,
    )


def build_searchers(items: ItemTable, listing: Listing, texts: TextVectors | None) -> list[Searcher]:
    """Who finds items by what a request names."""
    from streamrec.retrieval.searched import Meant, Worded

    searchers: list[Searcher] = []
    if listing.index is not None:
        searchers.append(Worded("text", listing.index, items))
    if texts is not None:
        searchers += [Meant("meaning", items, texts.of), Meant("alike", items)]
    return searchers


def build_scenarios(settings: Settings) -> dict[str, Scenario]:
    """The scenarios of a configuration, by name."""
    return {name: given.scenario(name) for name, given in settings.scenarios.items()}


def build_encoder(settings: Settings) -> Encoder:
    """What makes vectors of texts.

    Raises:
        ConfigError: `learning.encoder` is a model that is not here, or what runs it is not installed.
    """
    from streamrec.features.encoders import Hashed, SentenceEncoder

    learning = settings.learning
    if learning.encoder == HASHED:
        return Hashed(learning.content_width)
    return SentenceEncoder(learning.encoder, torch_device(learning.device))


def build_policy(settings: Settings, name: str) -> Policy:
    """The policy of that name, untaught.

    Raises:
        ConfigError: it ranks by a model that is not among `learning.models`.
    """
    from streamrec.policies.exp3 import Exp3
    from streamrec.policies.linear import Thompson, UpperConfidence
    from streamrec.policies.plackett_luce import PlackettLuce
    from streamrec.policies.plain import Greedy, ModelAlone, Uniform

    fusion, models = settings.fusion, [name for name in MODELS if name in settings.learning.models]
    makers: dict[str, Callable[[str], Policy]] = {
        "plackett-luce": lambda name: PlackettLuce(name, fusion.temperature, fusion.explore),
        "greedy": Greedy,
        "thompson": lambda name: Thompson(name, fusion.temperature, fusion.explore),
        "linucb": lambda name: UpperConfidence(name, fusion.explore),
        "exp3": lambda name: Exp3(name, len(models), fusion.explore),
        "uniform": Uniform,
    }
    if name in makers:
        return makers[name](name)
    alone = name.removeprefix("model:")
    if alone not in models:
        raise ConfigError(
            f"policy {name!r} ranks by a model that is not there; learning.models are {', '.join(models)}"
        )
    return ModelAlone(name, models.index(alone), models.index(BASELINE))


def build_plan(settings: Settings, revision: Revision | None = None) -> Plan:
    """Who gets which policy: by a revision, or as the settings say.

    Raises:
        ConfigError: the parts of the rollout do not fit together, or a policy's model is not there.
    """
    from streamrec.rollout import Plan

    plan = Plan.of(revision or settled_revision(settings), settings.rollout.evaluate)
    for name in plan.policies():
        build_policy(settings, name)
    return plan


def settled_revision(settings: Settings) -> Revision:
    """Revision 0: the rollout as the settings say."""
    rollout = settings.rollout
    return Revision(
        number=0,
        ts=0,
        mode=Mode(rollout.mode),
        policy=settings.fusion.policy,
        baseline=rollout.baseline,
        share=rollout.share,
        arms=dict(rollout.arms),
        interleave=rollout.interleave,
        salt=rollout.salt,
        why="the settings",
    )


def build_open_slates(settings: Settings, charge: Charge) -> OpenSlates:
    """The slates that wait for their outcomes: none yet. `charge` is told what clicks on ads cost."""
    from streamrec.attribution import RewardRule, Rules, SeenRule
    from streamrec.open_slates import OpenSlates, Room

    given = settings.attribution
    rules = Rules(int(given.window_s * 1000), SeenRule(given.seen), RewardRule(given.reward), dict(given.values))
    room = Room(SLATES_HELD, given.max_open_per_user, given.max_open)
    return OpenSlates(rules, int(given.lateness_s * 1000), room, charge)


def build_worker(
    settings: Settings,
    source: Source,
    sink: Sink,
    store: Store,
    shelf: SnapshotShelf | None,
    *,
    catalogue: Catalogue | None = None,
    observer: Callable[[Portion], None] | None = None,
    revised: Callable[[], Plan | None] = lambda: None,
    follower: Follower | None = None,
    trends: Follower | None = None,
    eager: bool = True,
) -> Worker:
    """A worker on any transport and store; `shelf` None keeps no model snapshots (a backtest).

    `revised` is asked at the start and after each checkpoint: a plan that is new since, None when there is none.
    `catalogue` is what is known of items at the start, `follower` the topic that says more; `trends` is the topic that
    says what is gaining; `eager` as in `build_recommender`.
    """
    import time

    from streamrec.checkpoints import Checkpoints, Pace
    from streamrec.features.ledger import Ledger
    from streamrec.features.trend_statements import Statements
    from streamrec.fold import Addresses
    from streamrec.health import Health
    from streamrec.metrics import Metrics
    from streamrec.trends_feed import TrendsFeed
    from streamrec.worker import Worker

    limits, topics = settings.limits, settings.topics
    recommender = build_recommender(settings, catalogue, eager=eager, told=trends is not None)
    statements = recommender.knowledge.trends
    ledger = Ledger(limits.max_users)
    open_slates = build_open_slates(settings, recommender.knowledge.ads.charge)
    pace = Pace(settings.checkpoints.interval_s, settings.checkpoints.share)
    return Worker(
        recommender,
        ledger,
        open_slates,
        Checkpoints(
            recommender, ledger, open_slates, store, shelf, pace, time.monotonic, lambda: int(time.time() * 1000)
        ),
        source,
        sink,
        store,
        Addresses(topics.recommendations, topics.outcomes, topics.dead_letters),
        build_tolerance(settings),
        Metrics(["fused", *recommender.fusion.models]),
        Health(settings.stuck_s),
        settings.checkpoints.handover_s,
        observer,
        revised,
        follower,
        TrendsFeed(trends, statements, limits.max_message_bytes)
        if trends is not None and isinstance(statements, Statements)
        else None,
    )


def build_tolerance(settings: Settings) -> Tolerance:
    """What is still an event, by a configuration."""
    from streamrec.intake import Tolerance

    limits = settings.limits
    return Tolerance(
        limits.max_message_bytes,
        limits.max_depth,
        limits.max_bad_in_a_row,
        limits.max_ahead_s,
        limits.max_behind_s,
        limits.require_key,
        {name: scenario.needs for name, scenario in build_scenarios(settings).items()},
    )


def build_rehearsal(
    settings: Settings,
    records: Callable[[], Iterator[Record]],
    observer: Callable[[Portion], None],
    catalogue: Catalogue | None = None,
) -> Worker:
    """A worker on a log of the past, in this process: nothing is answered, and nothing outlives it."""
    from streamrec.state.memory import MemoryStore
    from streamrec.transport.local import LocalSource

    source = LocalSource(settings.topics.events, records)
    return build_warmup(settings, source, MemoryStore(), observer, catalogue)


def build_warmup(
    settings: Settings,
    past: Source,
    store: Store,
    observer: Callable[[Portion], None] | None = None,
    catalogue: Catalogue | None = None,
) -> Worker:
    """A worker on a log of the past, over the live store: nothing is answered, and snapshots are left to the caller."""
    from streamrec.transport.local import LocalSink

    # Checkpoints by time there are none; so many changes that memory fills still go to the store.
    never = settings.checkpoints.model_copy(update={"interval_s": 1e9})
    unasked = settings.serving.model_copy(update={"recommend_on": frozenset()})
    quiet = settings.model_copy(update={"serving": unasked, "checkpoints": never})
    return build_worker(
        quiet, past, LocalSink(keep=1), store, None, catalogue=catalogue, observer=observer, eager=False
    )


def connect_worker(settings: Settings) -> Worker:
    """A worker on the configured Kafka and Redis.

    Raises:
        ConfigError: a setting does not fit.
        TableError: the catalogue cannot be read.
    """
    from streamrec.serve import serve
    from streamrec.state.snapshots import SnapshotShelf
    from streamrec.transport.confluent import KafkaSource
    from streamrec.transport.confluent_follower import KafkaFollower

    catalogue = read_catalogue(settings.items) if settings.items is not None else None
    worker = build_worker(
        settings,
        KafkaSource(
            settings.topics.events,
            settings.kafka,
            settings.group_id,
            skip_gaps=settings.checkpoints.on_gap == "skip",
        ),
        kafka_sink(settings),
        build_store(settings),
        SnapshotShelf(settings.checkpoints.directory, settings.checkpoints.keep),
        catalogue=catalogue,
        revised=following(settings, build_book(settings)),
        follower=KafkaFollower(settings.topics.items, settings.kafka),
        trends=KafkaFollower(settings.topics.trends, settings.kafka) if settings.trends.read else None,
    )
    if settings.metrics_port is not None:
        serve(worker.metrics.registry, worker.health, settings.metrics_port, settings.metrics_host)
    return worker


def build_store(settings: Settings) -> Store:
    """The configured Redis."""
    from streamrec.state.redis import RedisStore

    redis = settings.redis
    return RedisStore(
        redis.url,
        prefix=redis.prefix,
        topic=settings.topics.events,
        ttl_s=redis.user_ttl_s,
        slate_ttl_s=settings.serving.slate_ttl_s,
        timeout_s=redis.timeout_s,
    )


def build_book(settings: Settings) -> Book:
    """The rollout's revisions in the configured Redis."""
    from streamrec.state.rollouts import RedisBook

    redis = settings.redis
    return RedisBook(redis.url, prefix=redis.prefix, topic=settings.topics.events, timeout_s=redis.timeout_s)


def build_redriven(settings: Settings) -> Redriven:
    """What the configured Redis remembers of dead letters that were sent back; as long as the letters are kept."""
    from streamrec.state.redriven import Redriven
    from streamrec.transport.topics import LONG

    redis, kept_ms = settings.redis, settings.topics.retention_ms * LONG
    return Redriven(
        redis.url,
        prefix=redis.prefix,
        topic=settings.topics.events,
        keep_ms=kept_ms if kept_ms > 0 else None,
        timeout_s=redis.timeout_s,
    )


def following(settings: Settings, book: Book) -> Callable[[], Plan | None]:
    """Looks into a book: the plan of its newest revision when it is another than last time, else None."""
    known: list[int] = []

    def revised() -> Plan | None:
        revision = book.latest()
        if revision is None or known == [revision.number]:
            return None
        known[:] = [revision.number]
        return build_plan(settings, revision)

    return revised


def kafka_sink(settings: Settings) -> Sink:
    """A producer to the configured Kafka."""
    from streamrec.transport.confluent import KafkaSink

    return KafkaSink(settings.kafka)


def torch_device(wanted: str) -> str:
    """The torch device: `auto` is the GPU when there is one.

    Raises:
        ConfigError: a GPU was asked for and there is none.
    """
    import torch

    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise ConfigError("learning.device is 'cuda', but torch sees no GPU; use 'auto' or 'cpu'")
    return "cuda" if wanted != "cpu" and there else "cpu"


def steady_arithmetic() -> None:
    """One thread per product, everywhere: the same sums in the same order, and none waits for another."""
    import threadpoolctl
    import torch

    torch.set_num_threads(STEADY_THREADS)
    threadpoolctl.threadpool_limits(STEADY_THREADS)
