"""The engine to hold in the hand: learns, recommends, explains, is evaluated, saved and loaded, in one process.

    events --> records --> the worker's own step --> slates
                            |
                            memory, in place of Redis; nothing is published, and no thread or process is started

A program's events take the very way that a broker's do: the same validation, deduplication, attribution, learning cuts
and answers, by the objects that a backtest and `streamrec ask` run. So what is measured here holds there.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from pydantic import ValidationError

from streamrec.config.settings import Settings, load_settings
from streamrec.engine.arrays.batch import Int8
from streamrec.engine.learning.ranking_metrics import ranking_metrics
from streamrec.engine.scenarios.scenario import HOME
from streamrec.errors import ConfigError, StateError
from streamrec.events import Event, EventType, Filters, Item, Reason, Slate, TextTable
from streamrec.replay.catalogue_file import CatalogueItems, read_catalogue
from streamrec.replay.in_hand import Frame, Row, items_of, records_of
from streamrec.replay.logs import Log, RowLimits, open_log
from streamrec.state import inspection
from streamrec.state.memory import MemoryStore
from streamrec.transport import Record
from streamrec.transport.local import LocalSink, LocalSource
from streamrec.wiring.compilation import compile_ahead
from streamrec.wiring.progress import in_portions
from streamrec.wiring.recommender_results import ItemExplanation, PrequentialEvaluation, SlateExplanation
from streamrec.wiring.saved_recommender import (
    SavedRecommender,
    read,
    read_models,
    refuse_occupied,
    stored_by_kind,
    write,
)
from streamrec.wiring.worker import build_validation_limits, build_worker
from streamrec.worker.dead_letters import opened
from streamrec.worker.loop import POLL_RECORDS
from streamrec.worker.recovery import restore
from streamrec.worker.validation import event_of

if TYPE_CHECKING:
    from streamrec.engine.batch_result import BatchResult

Events = str | Path | Log | Frame | Iterable[Event | Row]
"""A log's path, an opened log, a polars or pandas frame, or events and dictionaries in any iterable."""

PARTITION = 0
MOMENT_MS = 1_000
"""A request that names no time comes so long after the newest event that was learned."""
PROBLEMS_SAID = 5
"""Rows named in a warning; the others are counted."""


class Recommender:
    """Learns from every event, and recommends.

    >>> from streamrec import Recommender
    >>> shop = Recommender(preset="fast", catalogue=[{"item_id": "mug", "title": "A mug"}])
    >>> shop.learn(
    ...     {"type": "purchase", "user_id": f"u{n}", "item_id": item, "ts": 1_700_000_000_000 + 60_000 * n}
    ...     for n in range(40)
    ...     for item in ("mug", "tea", "tin")
    ... )
    120
    >>> slate = shop.recommend("a new one", k=2, item_id="tea", scenario="similar")
    >>> sorted(place.item_id for place in slate.items)
    ['mug', 'tin']
    >>> print(shop.show(slate))  # doctest: +ELLIPSIS
    similar for a new one: 2 of 2 candidates by plackett-luce
    ...
    >>> shop.explain(slate).items[0].reason.because[0][0]
    'tea'

    Time is the log's own: nothing depends on when a log is learned, and the same events give the same slates to the
    bit. A slate counts as shown, as it does for a worker: what its user does next, learned with `learn`, is credited to
    it, and what was shown and left alone teaches too. Who only looks should set `attribution={"seen": "impressions"}`.

    The first events, and the first question of each kind, wait for code to be loaded: some tenths of a second for a
    question, some seconds for events. On a machine where it never ran it is compiled first: a minute or more.
    `compile_ahead` has all that behind it at a moment of your choice.
    """

    def __init__(
        self,
        preset: str | None = None,
        catalogue: str | Path | Iterable[Item | Row] | Frame | None = None,
        **settings: object,
    ) -> None:
        """An untaught one.

        Args:
            preset: `default`, or `fast`: fewer models, several times the speed.
            catalogue: what is known of items beforehand: a file's path, or items, dictionaries or a frame.
            settings: any of docs/11-settings.md, as `learning={"exclude_seen": True}` or
                `learning__exclude_seen=True`. STREAMREC_... variables count too, as they do for every command.

        Raises:
            ConfigError: a setting is unknown or does not fit.
            TableError: the catalogue cannot be read, or has a row that is no item.
        """
        chosen = load_settings(None, None, None, "argument", preset=preset, **settings)
        self._begin(
            chosen, _catalogue_of(chosen.items if catalogue is None else catalogue, chosen.separator), MemoryStore()
        )

    @classmethod
    def of(cls, settings: Settings, catalogue: CatalogueItems | None = None) -> Recommender:
        """An untaught one of settings that were read elsewhere."""
        self = cls.__new__(cls)
        self._begin(settings, catalogue or CatalogueItems(), MemoryStore())
        return self

    def _begin(
        self,
        settings: Settings,
        catalogue: CatalogueItems,
        store: MemoryStore,
        *,
        saved: SavedRecommender | None = None,
        path: Path = Path(),
    ) -> None:
        self.catalogue = catalogue
        self._settings = settings
        self._next = 0 if saved is None else saved.next_offset
        self._clock_ms = 0 if saved is None else saved.clock_ms
        self._limits = build_validation_limits(settings)
        self._watching: list[Callable[[BatchResult], None]] = []
        self._refused: list[tuple[int, str]] = []
        self._store = store
        # Requests are never too many here: there is nobody else whom they could hold up.
        asked = {"recommend_on": frozenset({EventType.REQUEST}), "requests_at_once": sys.maxsize}
        serving = settings.serving.model_copy(update=asked)
        trends = settings.trends.model_copy(update={"rehearse": True})  # there is no topic to be told them by
        self._worker = build_worker(
            settings.model_copy(update={"serving": serving, "trends": trends}),
            LocalSource(settings.topics.events),
            LocalSink(self._published, keep=1),
            store,
            None,
            catalogue=catalogue,
            observer=self._observe,
        )
        self._answered = self._worker.pipeline.recommend_on
        if saved is not None:
            restore(self._worker.pipeline, read_models(path, saved))
        self._worker.assigned([PARTITION])

    def compile_ahead(self) -> None:
        """Compile now what the first events and the first question of each kind would wait for; nothing is learned.

        For a program that answers people: call it before the first of them comes. Compiled code is kept on the disk
        and loaded by the next process, so all that depends on the machine: see the class.
        """
        compile_ahead(self._settings, Recommender.of)

    # Learn and evaluate

    def learn(self, events: Events, *, answer: bool = False) -> int:
        """Learn what users did, in the order given; returns how many events were taken.

        A row that is no event is left out, counted, and named in one warning with what is wrong with it; it costs
        nothing else. So many in a row that whatever makes them must be broken (`limits.max_bad_in_a_row`) are an error.
        A file is looked through first, and refused whole, before anything of it is learned.

        Args:
            events: with at least `type`, `user_id`, `ts` in ms or as a `datetime`, and mostly `item_id`; see
                docs/02-events-and-items.md. A log with other names of columns: `streamrec.replay.logs.open_log`.
            answer: requests among them are answered, as a worker would have, and what was shown counts as shown; else
                they are remembered as visits, since their slates were not seen.

        Raises:
            LogError, TableError: a file or a frame cannot be read as events.
            TooManyBadEvents: see above; what came before it was learned.
        """
        taken = 0

        def count(batch_result: BatchResult) -> None:
            nonlocal taken
            taken += len(batch_result.logged_events)
            self._clock_ms = max(self._clock_ms, *(logged.event.ts for logged in batch_result.logged_events))

        records, total, row_0 = self._records(events)
        with self._watched(count), self._answering(self._answered if answer else frozenset()):
            try:
                for chunk in in_portions(records, total, POLL_RECORDS):
                    self._step(chunk)
            finally:
                self._warn(row_0)
        return taken

    def evaluate(self, events: Events) -> PrequentialEvaluation:
        """Learn events, predicting each that counts as interest before it is learned, and say how well that went.

        A basket, which is what a user does at one time, is predicted whole before any of it is known. The figures are
        those of `streamrec backtest` without a warm-up.

        Raises:
            As `learn`.
        """
        lists = ("fused", *self._worker.pipeline.fusion.models)
        ranks = [np.empty((len(lists), 0), np.int8)]
        with self._watched(lambda batch_result: ranks.append(_ranks(batch_result))):
            self.learn(events)
        whole = np.concatenate(ranks, axis=1)  # (1 + models, targets)
        scored = np.ones(whole.shape[1], bool)
        return PrequentialEvaluation(
            {name: ranking_metrics(places, scored) for name, places in zip(lists, whole, strict=True)}
        )

    # Recommend and explain

    def recommend(
        self,
        user_id: str,
        k: int | None = None,
        *,
        scenario: str = HOME,
        item_id: str | None = None,
        basket: Sequence[str] | None = None,
        query: str | None = None,
        filters: Filters | Mapping[str, object] | None = None,
        candidates: Sequence[str] | None = None,
        context: Mapping[str, object] | None = None,
        session_id: str | None = None,
        ts: int | None = None,
        explain: bool = True,
    ) -> Slate:
        """The slate for a user now.

        Args:
            user_id: known or not.
            k: items at most; by default `serving.k`.
            scenario: the question: home, similar, bundle, search, ... (docs/03-slates.md).
            item_id: the item that others are to go with.
            basket: likewise, several.
            query: a text to search for.
            filters: what the items must be, as `{"categories": ["tea"], "price_max": 20}`.
            candidates: what is to be ranked, at most 100 items; by default anything may be.
            context: what else is known of the moment.
            session_id: of the visit.
            ts: when, in ms; by default a second after the newest event that was learned.
            explain: find the reasons too, for `explain`; it takes several times as long as the slate itself.

        Raises:
            BadEvent: no worker would take such a request; says which field, and what was expected.
        """
        if ts is None:
            ts = self._clock_ms + MOMENT_MS if self._clock_ms else int(time.time() * 1000)
        said: dict[str, object] = {
            "user_id": user_id,
            "ts": ts,
            "k": k,
            "scenario": scenario,
            "item_id": item_id,
            "basket": basket,
            "query": query,
            "filters": None if filters is None else msgspec.to_builtins(filters),
            "candidates": candidates,
            "context": context,
            "session_id": session_id,
            "explain": explain,
        }
        given = {name: value for name, value in said.items() if value is not None}
        return self._answer(self._asking({"type": EventType.REQUEST.value, **given}))

    def answer(self, request: Event) -> Slate:
        """The slate for a request as it would stand in a log.

        Raises:
            BadEvent: as `recommend`.
        """
        return self._answer(self._asking(request))

    def check(self, request: Event) -> None:
        """Raise what `answer` would, and do nothing else.

        Raises:
            BadEvent: as `recommend`.
        """
        event_of(self._asking(request), self._limits)

    def _asking(self, request: Event | Row) -> Record:
        [record] = records_of([request], self._settings.topics.events, self._next)
        return record

    def _answer(self, record: Record) -> Slate:
        event_of(record, self._limits)  # refused before anything has happened
        found: list[Slate] = []
        with self._watched(lambda batch_result: found.extend(batch_result.slates.values())):
            self._step([record])
        [slate] = found
        return slate

    def show(self, slate: Slate) -> TextTable:
        """The slate with the titles of its items, as far as the catalogue has them."""
        titles = {place.item_id: self._title(place.item_id) for place in slate.items}
        return slate.table(titles if self.catalogue else None)

    def explain(self, slate: Slate) -> SlateExplanation:
        """Why each item of a slate is on it, as was found when it was made.

        Raises:
            ConfigError: the slate was asked for without reasons.
        """
        if slate.items and not slate.reasons:
            raise ConfigError(f"slate {slate.rec_id} was asked for with explain=False; ask with explain=True")
        pairs = zip(slate.items, slate.reasons, strict=True)
        named = [
            (item, Reason(because=tuple((self._title(c), fall) for c, fall in reason.because), rules=reason.rules))
            for item, reason in pairs
        ]
        return SlateExplanation(
            slate, tuple(ItemExplanation(item, self._title(item.item_id), reason) for item, reason in named)
        )

    def user(self, user_id: str) -> inspection.Known | None:
        """What is known of a user, as plain values (docs/12-commands.md, `streamrec user`); None of a stranger."""
        self._worker.checkpoint()
        return inspection.user(self._store, user_id)

    def _title(self, item_id: str) -> str:
        return self.catalogue.title(item_id)

    # Save and load

    def save(self, path: str | Path) -> Path:
        """Write everything that it takes to go on as if nothing had happened into a directory of that name.

        Models go into a safetensors file, the rest into a msgpack file: nothing that runs when it is read. Guarantee:
        the directory appears under its name when it is complete; one saved there before is replaced.

        Raises:
            StateError: something else has that name, or the disk refused.
        """
        path = Path(path)
        refuse_occupied(path)
        self._worker.checkpoint()
        pipeline = self._worker.pipeline
        saved = SavedRecommender(
            settings=self._settings.model_dump(mode="json", exclude={"kafka", "redis", "items"}),
            catalogue=list(self.catalogue.values()),
            next_offset=self._next,
            clock_ms=self._clock_ms,
            watermark=self._store.marks()[PARTITION].watermark,
            stored=stored_by_kind(self._store, PARTITION),
        )
        write(path, saved, pipeline.state(), pipeline.schema)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Recommender:
        """What was saved there, with the settings it had; variables of the environment do not count.

        Raises:
            StateMissing: nothing was saved there.
            StateError: it is not what was saved, or of another version of streamrec.
        """
        path = Path(path)
        saved = read(path)
        try:
            settings = Settings(**saved.settings)
        except ValidationError as error:
            raise StateError(f"{path} has settings that this version does not take: {error}") from error
        self = cls.__new__(cls)
        self._begin(settings, CatalogueItems(saved.catalogue), saved.store(PARTITION), saved=saved, path=path)
        return self

    def __repr__(self) -> str:
        items, examples = self._worker.pipeline.features.items.known, self._worker.pipeline.progress.examples
        return f"<Recommender: {items:,} items, {examples:,} examples, {self._next:,} events>"

    # The way through the worker

    def _records(self, events: Events) -> tuple[Iterator[Record], int | None, int]:
        """What a broker would hold; how many if that is known; and the offset of row 0."""
        topic, first = self._settings.topics.events, self._next
        if isinstance(events, str | Path):
            events = open_log(Path(events), row_limits=RowLimits(self._limits), separator=self._settings.separator)
            events.check()
        if isinstance(events, Log):
            row_0 = max(first - events.start, 0)  # rows keep their numbers, as long as they go on from what was
            numbered = (replace(record, offset=row_0 + record.offset) for record in events.records(topic))
            return numbered, len(events), row_0
        return records_of(events, topic, first), len(events) if isinstance(events, Sized) else None, first

    def _step(self, records: Sequence[Record]) -> None:
        """What the worker's loop does with a poll."""
        self._next = records[-1].offset + 1  # even if there are too many bad ones: what came before is learned
        self._worker.step(records)
        if self._worker.pipeline.quarantine.sentenced():
            self._worker.checkpoint()  # a model in danger is rolled back

    def _observe(self, batch_result: BatchResult) -> None:
        for watch in self._watching:
            watch(batch_result)

    @contextmanager
    def _watched(self, watch: Callable[[BatchResult], None]) -> Iterator[None]:
        self._watching.append(watch)
        try:
            yield
        finally:
            self._watching.remove(watch)

    @contextmanager
    def _answering(self, types: frozenset[EventType]) -> Iterator[None]:
        self._worker.pipeline.recommend_on = types
        try:
            yield
        finally:
            self._worker.pipeline.recommend_on = self._answered

    def _published(self, record: Record) -> None:
        letter = opened(record) if record.topic == self._settings.topics.dead_letters else None
        if letter is not None:
            self._refused.append((letter.origin.offset, letter.detail))

    def _warn(self, row_0: int) -> None:
        """Say which rows were left out since the last time; row 0 is at that offset."""
        refused, self._refused = self._refused, []
        if not refused:
            return
        lines = [f"row {offset - row_0}: {detail}" for offset, detail in refused[:PROBLEMS_SAID]]
        if len(refused) > PROBLEMS_SAID:
            lines.append(f"... and {len(refused) - PROBLEMS_SAID} more")
        warnings.warn("\n  ".join([f"{len(refused)} rows were left out:", *lines]), stacklevel=3)


def _catalogue_of(given: str | Path | Iterable[Item | Row] | Frame | None, separator: str) -> CatalogueItems:
    if given is None:
        return CatalogueItems()
    return read_catalogue(Path(given), separator) if isinstance(given, str | Path) else items_of(given)


def _ranks(batch_result: BatchResult) -> Int8:
    """(1 + models, targets) of one portion."""
    ranks: Int8 = batch_result.trial.ranks[:, np.flatnonzero(batch_result.trial.kept)]
    return ranks
