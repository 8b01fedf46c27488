"""Gives users and models to another topic under the same name: one that was made anew, or another cluster's."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import closing
from functools import partial

import msgspec

from streamrec.cli.shared.console import PlainConsole
from streamrec.cli.shared.handover import (
    EARLIEST,
    LATEST,
    SAMPLE,
    home_of,
    moment_of,
    partitioner_of,
    positions,
    refuse_live_workers,
)
from streamrec.config.settings import Settings
from streamrec.errors import StateError
from streamrec.state import Store
from streamrec.state.rescale import Rescale
from streamrec.state.snapshots import SnapshotDirectory
from streamrec.transport.identity import IdentityReader
from streamrec.transport.positions import TopicReader
from streamrec.wiring import build_open_slates, build_store, build_validation_limits
from streamrec.worker.topic_watch import another, facts
from streamrec.worker.validation import event_of


def run(settings: Settings, start: str, *, as_json: bool) -> None:
    """Let workers begin at `start` in the topic that is there, with the users and models of the one that was.

    Raises:
        ConfigError: `start` is no place.
        TransportError: the brokers do not answer; it cannot be told how users are spread.
        StateError: workers run; the topic is the one whose positions are stored; the models are not here.
    """
    name = settings.topics.events
    place = start if start in (EARLIEST, LATEST) else moment_of(start, "--from")
    with closing(TopicReader(name, settings.kafka)) as topic, closing(build_store(settings)) as store:
        refuse_live_workers(settings)
        told = facts(IdentityReader(name, settings.kafka).identity())
        if not store.marks() or not another(told, store.known_topic(told)):
            raise StateError(f"topic {name!r} is the one whose positions are stored: there is nothing to adopt")
        spread = partitioner_of(settings, topic.oldest(SAMPLE), topic.partitions)
        judge = partial(event_of, validation_limits=build_validation_limits(settings))
        starts = positions(topic, place, 0, judge, PlainConsole(stderr=True))
        anew = starts, _models(settings, store, starts)
        move = Rescale(store, home_of(spread, topic.partitions), topic.beginning(), anew)
        totals = move.run(told, build_open_slates(settings, lambda partition, due: None))
    if as_json:
        begin = {str(partition): offset for partition, offset in sorted(starts.items())}
        print(json.dumps({"topic": name, "starts": begin, "snapshot": anew[1], "totals": msgspec.to_builtins(totals)}))
        return
    print(f"{name}: there are {totals}")
    print(f"next: start `streamrec worker`; by partition, it begins at {dict(sorted(starts.items()))}")


def _models(settings: Settings, store: Store, starts: Mapping[int, int]) -> str | None:
    """The newest models, saved anew as what stands for these positions: their own are of a log that is no more."""
    named = {mark.snapshot for mark in store.marks().values() if mark.snapshot is not None}
    if not named:
        return None
    snapshots = SnapshotDirectory(settings.snapshots.url, settings.snapshots.keep)
    newest = snapshots.load(max(named))
    now_ms = time.time_ns() // 1_000_000
    return snapshots.save(newest.arrays, starts, newest.schema, now_ms=now_ms, protect=named, suspect=newest.suspect)
