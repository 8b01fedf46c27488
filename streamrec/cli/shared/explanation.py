"""A slate and its reasons, in words and as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from rich.console import Console

from streamrec.codec import JOINERS, harmless
from streamrec.engine.scenarios.scenario import seeds_of
from streamrec.engine.slates.wording import TEMPERED, placed, wanted
from streamrec.events import EXPLORED, Event, Reason, Slate, SlateItem
from streamrec.replay.catalogue_file import CatalogueItems
from streamrec.state.inspection import Known
from streamrec.state.user_profile import span


@dataclass(frozen=True, slots=True)
class Explanation:
    """What there is to say of one slate."""

    slate: Slate
    request: Event
    user: Known | None  # as `inspect.user` knows them now
    catalogue: CatalogueItems
    temperature: float  # `fusion.temperature` as configured now
    derived: bool  # the reasons are the models' of now


def as_plain(explanation: Explanation) -> Known:
    """Plain values in a shape that stays (`docs/12-commands.md` lists the fields)."""
    slate = explanation.slate
    return {
        "rec_id": slate.rec_id,
        "user_id": slate.user_id,
        "ts": slate.ts,
        "policy": slate.policy,
        "version": slate.version,
        "mode": slate.mode,
        "arm": slate.arm,
        "scenario": slate.scenario,
        "candidates": slate.candidates,
        "reasons": "derived" if explanation.derived else "recorded" if slate.reasons else None,
        "items": [_plain_item(explanation, item, reason) for item, reason in _places(slate)],
    }


def _plain_item(explanation: Explanation, item: SlateItem, reason: Reason) -> Known:
    return {
        "position": item.position,
        "item_id": item.item_id,
        "title": explanation.catalogue.title(item.item_id),
        "score": item.score,
        "rank": item.rank or None,
        "propensity": item.propensity,
        "team": item.team,
        "shares": item.shares,
        "because": [
            {"item_id": cause, "title": explanation.catalogue.title(cause), "fall": fall, **_touch(explanation, cause)}
            for cause, fall in reason.because
        ],
        "rules": list(reason.rules),
    }


def print_words(console: Console, explanation: Explanation) -> None:
    """The same for people."""

    def say(line: str) -> None:
        console.print(harmless(line, JOINERS), soft_wrap=True)

    slate = explanation.slate
    when = f"{datetime.fromtimestamp(slate.ts / 1000, UTC):%Y-%m-%d %H:%M:%S}Z"
    arm = "" if slate.arm is None else f", arm {slate.arm}"
    mode = "" if slate.mode == "online" else f", {slate.mode}"
    say(f"slate {slate.rec_id} for {slate.user_id}, {when}")
    say(
        f"{slate.policy} (version {slate.version}{mode}{arm}) chose {len(slate.items)} of {slate.candidates} candidates"
    )
    if explanation.derived:
        say("its request did not ask for reasons: derived with the models as of now, not as of then")
    elif not slate.reasons and slate.items:
        say("its request did not ask for reasons: there are none in the record")
    rules = dict.fromkeys(rule for reason in slate.reasons for rule in reason.rules)
    general = [rule for rule in rules if not rule.startswith(EXPLORED)]
    everywhere = [rule for rule in general if all(rule in reason.rules for reason in slate.reasons)]
    for rule in everywhere:
        say(rule)
    for item, reason in _places(slate):
        title = explanation.catalogue.title(item.item_id)
        name = item.item_id if title == item.item_id else f"{title} ({item.item_id})"
        say(f"{item.position:>3}. {name}, score {item.score:.3g}")
        own = [rule for rule in reason.rules if rule not in everywhere]
        causes = ", ".join(_cause(explanation, cause, fall) for cause, fall in reason.because)
        temperature = explanation.temperature if (item.team or slate.policy) in TEMPERED else None
        explored = any(rule.startswith(EXPLORED) for rule in own)  # what it says is the cause then
        how = placed(item, slate.policy, temperature, explored=explored)
        told = [f"wanted by {wanted(item)}", how, *own]
        for line in [*told, *([f"because of {causes}"] if causes else [])]:
            say(f"     {line}")


def _cause(explanation: Explanation, cause: str, fall: float) -> str:
    touch = _touch(explanation, cause)
    when = "named in the request" if cause in seeds_of(explanation.request) else ""
    if touch["ts"] is not None and not when:
        when = f"{touch['type']}, {span(explanation.slate.ts - touch['ts'])} before"
    return f"{explanation.catalogue.title(cause)}{f' ({when})' if when else ''} {fall:+.2g}"


def _touch(explanation: Explanation, cause: str) -> Known:
    """When the user touched an item last before the slate, as far as it is still remembered."""
    recent = [] if explanation.user is None else explanation.user["recent"]
    touches = (touch for touch in recent if touch["item_id"] == cause and touch["ts"] <= explanation.slate.ts)
    latest = next(touches, None)  # they come newest first
    return {"type": None, "ts": None} if latest is None else {"type": latest["type"], "ts": latest["ts"]}


def _places(slate: Slate) -> list[tuple[SlateItem, Reason]]:
    return list(zip(slate.items, slate.reasons or (Reason(),) * len(slate.items), strict=True))
