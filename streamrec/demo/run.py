"""The demonstration itself: baskets go out, slates come in, figures are kept, and everything is ended.

A closed loop: at most `MOST_WAITING` requests wait for their slate, so that a latency is the system's and not that of a
queue as long as the log.
"""

from __future__ import annotations

import signal
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from streamrec.client import EventProducer, RecommendationConsumer
from streamrec.config import parts
from streamrec.demo.baskets import Basket, read_baskets
from streamrec.demo.figures import FIRST, Figures
from streamrec.demo.sample import sample_items, sample_log
from streamrec.demo.show import Display
from streamrec.demo.system import RunningSystem, WorkerProcess, running_system
from streamrec.errors import EmbeddedError
from streamrec.events import Event, Slate
from streamrec.replay.catalogue_file import read_catalogue
from streamrec.state import inspection as inspect
from streamrec.wiring import build_store

QUICK_ROWS = 24_000
MOST_WAITING = 8
WARMUP = 0.1
"""This share of the baskets is learned but not scored."""
HALF_LIFE = "half_life_s"
"""The option of the listed popularities."""
SHOWN = {True: 2, False: 1}
"""Slates shown in words at the end, of which something was bought and of which nothing was: those of the last customers
who had been there before."""
SILENCE_LIMIT_S = 180.0
"""The very first slate may wait for compiled loops, on a slow machine for a minute."""


def run(*, quick: bool, stay: bool) -> None:
    """Start everything, send the log, show what comes of it, and end everything.

    Raises:
        StreamrecError: something did not start, or stopped in the middle.
    """
    began = time.monotonic()
    baskets = read_baskets(sample_log(), QUICK_ROWS if quick else None)
    catalogue = read_catalogue(sample_items())
    lives = {name: entry.options[HALF_LIFE] for name, entry in parts.models().items() if HALF_LIFE in entry.options}
    display = Display(catalogue, total=sum(len(basket.purchases) + 1 for basket in baskets))
    figures = Figures(lives, sorted(catalogue), warmup=round(WARMUP * len(baskets)))
    with tempfile.TemporaryDirectory(prefix="streamrec-demo-", ignore_cleanup_errors=True) as place:
        with display.starting(), running_system(Path(place), sample_items()) as running:
            display.started(running)
            examples = Demonstration(running, figures, display).play(baskets)
            if stay:
                running.gateway.start()
                display.summary(figures, examples, known=None)
                display.staying(running, baskets[-1])
                signal.pause()
            running.worker.stop()
            known = _known(running, examples)
        display.summary(figures, examples, known)
        display.ended(seconds=time.monotonic() - began)


class Demonstration:
    """Sends baskets and takes slates, as two clients of the running system."""

    def __init__(self, running: RunningSystem, figures: Figures, display: Display) -> None:
        self._running = running
        self._figures = figures
        self._display = display
        self._examples = {hit: deque[tuple[Basket, Slate]](maxlen=most) for hit, most in SHOWN.items()}
        self._returning: set[str] = set()

    def play(self, baskets: Sequence[Basket]) -> list[tuple[Basket, Slate]]:
        """All of it, in order; returns a few slates worth showing, and what was bought after each.

        Raises:
            StreamrecError: the worker, the broker or a slate failed us.
        """
        broker, topics = self._running.broker, self._running.settings.topics
        settings = dict(broker.settings)
        with (
            RecommendationConsumer(
                broker.bootstrap, topic=topics.recommendations, from_beginning=True, settings=settings
            ) as slates,
            EventProducer(broker.bootstrap, topic=topics.events, settings=settings) as events,
            self._display.live(self._figures),
        ):
            for basket in baskets:
                self._take(slates, until=MOST_WAITING - 1)
                self._send(events, basket)
            # Its answer says that everything before it was handled.
            last = Basket(len(baskets), baskets[-1].purchases[:1])
            self._figures.ask(last, time.monotonic(), judged=False)
            events.send(last.request)
            self._take(slates, until=0)
        return [example for kept in self._examples.values() for example in kept]

    def _send(self, events: EventProducer, basket: Basket) -> None:
        request: Event = basket.request
        self._figures.ask(basket, time.monotonic())
        events.send(request)
        for purchase in basket.purchases:
            events.send(purchase)
        self._figures.buy(basket)

    def _take(self, slates: RecommendationConsumer, until: int) -> None:
        """Read slates until at most so many requests wait."""
        deadline = time.monotonic() + SILENCE_LIMIT_S
        while self._figures.waiting > until:
            slate = slates.poll(0.5)
            now_s = time.monotonic()
            if slate is None:
                self._running.worker.check()
                if now_s > deadline:
                    raise _silent(self._running.worker)
                continue
            deadline = now_s + SILENCE_LIMIT_S
            basket = self._figures.answer(slate, now_s)
            if basket is not None:
                self._remember(basket, slate)

    def _remember(self, basket: Basket, slate: Slate) -> None:
        self._display.answered(self._figures)
        if basket.user_id in self._returning:
            bought = basket.items & {place.item_id for place in slate.items[:FIRST]}
            self._examples[bool(bought)].append((basket, slate))
        self._returning.add(basket.user_id)


def _silent(worker: WorkerProcess) -> EmbeddedError:
    return EmbeddedError(
        f"no slate came for {SILENCE_LIMIT_S:.0f} s, expected one for every request; the end of the worker's log:\n"
        f"{worker.log_end()}"
    )


def _known(running: RunningSystem, examples: Sequence[tuple[Basket, Slate]]) -> inspect.Known | None:
    """What the store, after the worker's last checkpoint, knows of the last customer shown."""
    if not examples:
        return None
    with closing(build_store(running.settings)) as store:
        return inspect.user(store, examples[-1][0].user_id)
