"""Derives the reasons of an old slate: today's models are asked about the user as of then.

What the newest snapshot knows and what the store keeps of the user are read, and nothing is written. The user's
history, purchases and what was shown are cut off at the slate's time; counts and affinities are those of now.
"""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np

from streamrec.config.settings import Settings
from streamrec.engine.arrays.batch import CANDIDATES, NOTHING, Int32
from streamrec.engine.arrays.logged_event import LoggedEvent
from streamrec.engine.pipeline import Pipeline
from streamrec.engine.slates.explanations import Applied, Scorers, reasons_of
from streamrec.errors import StateMissing
from streamrec.events import Reason, Slate
from streamrec.replay.catalogue_file import CatalogueItems
from streamrec.state import Key, Kind, Store
from streamrec.state.snapshots import SnapshotDirectory
from streamrec.wiring import bring_in, build_pipeline
from streamrec.worker.recovery import restore


def reasons_now(
    settings: Settings, store: Store, slate: Slate, logged: LoggedEvent, catalogue: CatalogueItems
) -> tuple[Reason, ...]:
    """The reasons of each item of `slate`, which answered `logged`, as the models see it now.

    Raises:
        StateMissing: there is no snapshot here.
        StateError: a snapshot or the store cannot be read, or the snapshot does not fit.
    """
    pipeline = _restored(settings, slate, logged, catalogue)
    user = logged.partition, slate.user_id
    [stored] = store.load([Key(logged.partition, Kind.USER, slate.user_id)])
    bring_in(pipeline, [logged], {user: None if stored is None else as_of(stored, slate.ts)})
    batch = pipeline.batch
    first = batch.asked
    [(query, _)], _, _ = pipeline.remember([logged])
    pipeline.rank(slice(first, batch.asked))
    candidates = _candidates(slate, batch.candidates.items[query], pipeline)
    scorers = Scorers(pipeline.models, pipeline.fusion, pipeline.features.items)
    applied = Applied(pipeline.rules_by_query[query], settings.fusion.explore)
    return reasons_of(slate, batch.queries, query, candidates, scorers, applied)


def as_of(stored: bytes, ts: int) -> bytes:
    """A stored user without the newest items, touched after `ts` (ms), nor what was bought or shown from then on.

    An item that was shown again since counts as not shown before: how often it was by then is not kept.
    """
    user: dict[str, Any] = msgpack.unpackb(stored, strict_map_key=False)
    kept = [touch for touch in user["recent"] if touch[2] <= ts]
    later = {touch[0] for touch in user["recent"] if touch[2] > ts} - {touch[0] for touch in kept}
    session = user["session"]
    session["items"] = max(session["items"] - (len(user["recent"]) - len(kept)), 0)
    user["recent"] = kept
    if "seen" in user:
        user["seen"] = [item_id for item_id in user["seen"] if item_id not in later]
    for name, latest in (("bought", ts), ("shown", ts - 1)):  # the slate itself was shown at `ts`
        if name in user:
            user[name] = [entry for entry in user[name] if entry[-1] <= latest]
    return bytes(msgpack.packb(user))


def _restored(settings: Settings, slate: Slate, logged: LoggedEvent, catalogue: CatalogueItems) -> Pipeline:
    snapshots = SnapshotDirectory(settings.snapshots.url)
    newest = snapshots.latest()
    if newest is None:
        raise StateMissing(
            f"slate {slate.rec_id} was published without reasons (its request did not ask), and to derive them takes a "
            f"model snapshot, of which there is none in {snapshots.url}: name where workers keep theirs, or --no-derive"
        )
    serving = settings.serving.model_copy(update={"recommend_on": frozenset({logged.event.type})})
    pipeline = build_pipeline(settings.model_copy(update={"serving": serving}), catalogue)
    restore(pipeline, snapshots.load(newest))
    return pipeline


def _candidates(slate: Slate, proposed: Int32, pipeline: Pipeline) -> Int32:
    """What the slate holds, then what is proposed today, (CANDIDATES,): the slate's own candidates are not kept."""
    lookup = pipeline.features.items.lookup
    shown = [index for item in slate.items if (index := lookup(item.item_id)) != NOTHING]
    others = proposed[(proposed != NOTHING) & ~np.isin(proposed, shown)]
    candidates = np.full(CANDIDATES, NOTHING, np.int32)
    both = np.concatenate([np.array(shown, np.int32), others])[:CANDIDATES]
    candidates[: len(both)] = both
    return candidates
