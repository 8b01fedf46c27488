"""Learns a log in this process, answers one request at its end, and prints the slate with its reasons.

What a worker would have answered then: the same step over the same records, the request last. Nothing is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from streamrec.cli.shared.console import PlainConsole
from streamrec.cli.shared.explanation import Explanation, as_plain, print_words
from streamrec.cli.shared.logs import LogPart, checked
from streamrec.codec import fault
from streamrec.config.settings import Settings
from streamrec.engine.scenarios.scenario import HOME
from streamrec.errors import BadEvent, ConfigError
from streamrec.events import Event, Slate
from streamrec.replay.catalogue_file import CatalogueItems, read_catalogue
from streamrec.replay.logs import Log
from streamrec.state import inspection as inspect
from streamrec.wiring.recommender import Recommender

MOMENT_MS = 1_000
"""The request comes so long after the log's last event."""


def run(part: LogPart, settings: Settings, wanted: Event, *, as_json: bool) -> None:
    """Print what `wanted`, of which only the time is not its own, is answered with.

    Raises:
        TableError, LogError: the log or the catalogue cannot be read as asked, or holds nothing.
        ConfigError: a setting does not fit, or no worker takes such a request.
    """
    log = part.open(settings)
    catalogue = read_catalogue(settings.items, settings.separator) if settings.items is not None else CatalogueItems()
    summary = checked(log, PlainConsole(stderr=True))
    assert summary.last_ts is not None  # there are events
    request = msgspec.structs.replace(wanted, ts=summary.last_ts + MOMENT_MS, explain=True)
    slate, user = answered(log, settings, request, catalogue)
    explanation = Explanation(slate, request, user, catalogue, settings.fusion.temperature, derived=False)
    if as_json:
        said = {**as_plain(explanation), "refused_rows": summary.refusals.rows, "refused": summary.refusals.as_dict()}
        print(msgspec.json.encode(said).decode())
        return
    console = PlainConsole()
    what = [slate.scenario, *(f"{name} {value!r}" for name, value in asked_for(request))]
    console.print(f"asked: {', '.join(what)}", highlight=False, markup=False, soft_wrap=True)
    print_words(console, explanation)


def answered(
    log: Log, settings: Settings, request: Event, catalogue: CatalogueItems
) -> tuple[Slate, inspect.Known | None]:
    """The slate for a request at a log's end, and what is known of who asked.

    Raises:
        ConfigError: no worker takes such a request.
    """
    recommender = Recommender.of(settings, catalogue)
    try:
        recommender.check(request)
        recommender.learn(log, answer=True)
        return recommender.answer(request), recommender.user(request.user_id)
    except BadEvent as error:
        raise ConfigError(f"the request cannot be answered: {error.detail}") from None


def asked_for(request: Event) -> Iterator[tuple[str, object]]:
    """What a request names, field by field."""
    named = {
        "item": request.item_id,
        "basket": ", ".join(request.basket or ()),
        "query": request.query,
        "filters": None if request.filters is None else msgspec.to_builtins(request.filters),
    }
    for name, value in named.items():
        if value:
            yield name, value


def request_of(user_id: str, scenario: str | None, **more: object) -> Event:
    """The request as it was typed.

    Raises:
        ConfigError: it is none.
    """
    said = {"type": "request", "user_id": user_id, "ts": 0, "scenario": scenario or HOME, **more}
    try:
        return msgspec.convert({name: value for name, value in said.items() if value not in (None, (), {})}, Event)
    except msgspec.ValidationError as error:
        raise ConfigError(f"the request is none: {fault(error, said, Event)}") from None


def filters_of(
    categories: Sequence[str] | None,
    without_categories: Sequence[str] | None,
    tags: Sequence[str] | None,
    prices: tuple[float | None, float | None],
) -> dict[str, object]:
    """A request's filters as they were typed, without what was not."""
    said = {
        "categories": categories,
        "without_categories": without_categories,
        "tags": tags,
        "price_min": prices[0],
        "price_max": prices[1],
    }
    return {name: value for name, value in said.items() if value is not None}
