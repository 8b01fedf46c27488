"""What the demonstration looks like: a bar and a small table at a terminal, plain lines elsewhere, and a summary.

Knows nothing of how figures come to be.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from streamrec.demo.baskets import Basket
from streamrec.demo.figures import FIRST, Figures
from streamrec.demo.sample import sample_log
from streamrec.demo.system import RunningSystem
from streamrec.events import Slate, SlateItem
from streamrec.replay.catalogue_file import CatalogueItems
from streamrec.state.inspection import Known

LINE_EVERY_S = 2.0
"""Between two plain lines."""
REFRESHES_PER_S = 4
COMMAND = Path(sys.executable).parent / "streamrec"
"""The console script beside this interpreter."""
TO_TRY = """\
tools/test                      # everything that must hold
tools/bench                     # events per second on this machine, and where the time goes
{streamrec} demo --stay    # the same again, and everything stays up to look around
# each model beside the fused slate, as a page of HTML:
{streamrec} backtest {log} --out report
# your own Kafka and Redis: make the topics, start a worker, and see what it knows of a user while it runs
{streamrec} topics apply --kafka HOST:PORT
{streamrec} worker --kafka HOST:PORT --redis URL
{streamrec} user USER_ID --redis URL"""


class Display:
    """One demonstration's output, on standard output."""

    def __init__(self, catalogue: CatalogueItems, total: int) -> None:
        """`total` is the number of events that will be sent."""
        self._catalogue = catalogue
        self._total = total
        self._console = Console(highlight=False)
        self._progress = Progress(
            TextColumn("events"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), auto_refresh=False
        )
        self._bar = self._progress.add_task("events", total=total)
        self._last_line_s = time.monotonic()

    # Before and after

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Say how long this takes."""
        self._console.print(
            "starting a broker, a Redis server and a worker (about ten seconds; minutes the first time, to compile) ..."
        )
        yield

    def started(self, running: RunningSystem) -> None:
        """Say what runs where."""
        self._console.print(
            f"{running.broker.kind} at {running.broker.bootstrap}, Redis at {running.settings.redis.url}, "
            f"worker process {running.worker.pid}",
            soft_wrap=True,
        )

    def staying(self, running: RunningSystem, basket: Basket) -> None:
        """Say how to look around."""
        self._console.print(
            f"\neverything stays up until Ctrl-C; in a browser: {running.page}\nand in another terminal:\n"
            f"  .venv/bin/streamrec user {basket.user_id} --config {running.config}\n"
            f"  .venv/bin/streamrec tail --from-beginning --count 3 --config {running.config}",
            soft_wrap=True,
        )

    # While it runs

    @contextmanager
    def live(self, figures: Figures) -> Iterator[None]:
        """Keep the bar and the table fresh."""
        if not self._console.is_terminal:
            yield
            return
        picture = _LiveDisplay(self, figures)
        with Live(picture, console=self._console, refresh_per_second=REFRESHES_PER_S):
            yield

    def picture(self, figures: Figures) -> Group:
        """The bar and the table as they are now."""
        self._progress.update(self._bar, completed=figures.handled)
        return Group(self._progress.get_renderable(), _table(figures))

    def answered(self, figures: Figures) -> None:
        """Where there is no terminal to redraw: a plain line now and then."""
        now_s = time.monotonic()
        if self._console.is_terminal or now_s - self._last_line_s < LINE_EVERY_S:
            return
        self._last_line_s = now_s
        if figures.scored == 0:
            self._console.print(f"{figures.handled:,}/{self._total:,} events: warming up")
            return
        name, rate = figures.best_popular()
        self._console.print(
            f"{figures.handled:,}/{self._total:,} events: {figures.events_per_s:,.0f}/s, lag {figures.lag:,}, "
            f"latency p50 {figures.latency_ms(0.5):.0f} ms p99 {figures.latency_ms(0.99):.0f} ms, "
            f"hit rate at {FIRST}: slates {figures.hit_rate:.4f}, {name} {rate:.4f}",
            soft_wrap=True,
        )

    # In the end

    def summary(self, figures: Figures, examples: Sequence[tuple[Basket, Slate]], known: Known | None) -> None:
        """A few slates in words, and the figures."""

        def say(words: str) -> None:
            self._console.print(words, soft_wrap=True)

        for basket, slate in examples:
            self._console.print(self._in_words(basket, slate))
        if known is not None:
            leanings = ", ".join(list(known["affinities"])[:3]) or "nothing yet"
            say(f"\nkept of customer {known['user_id']}: {known['events']} events, leans to {leanings}")
        say(f"\n{figures.handled:,} of {figures.sent:,} events handled in order, {figures.answered:,} slates")
        self._console.print(_table(figures))
        if not figures.scored:
            return
        best, _ = figures.best_popular()
        say(figures.lift().verdict(best, "purchases"))
        say(
            f"{best} is the best of {len(figures.popular_rates())} popularities, chosen afterwards; both were asked "
            f"before each of {figures.scored:,} baskets, after the warm-up"
        )
        with_hit, scored, items = figures.hits.baskets, figures.scored, figures.hits.purchases
        beside = figures.popular_hits[best].baskets
        say(
            f"{with_hit:,} of {scored:,} slates ({with_hit / scored:.0%}) held something that was then bought, "
            f"{items:,} items; of {scored - with_hit:,} nothing was. {best}: {beside:,} ({beside / scored:.0%})"
        )

    def ended(self, seconds: float) -> None:
        """What to try next."""
        say = self._console.print
        say(f"whole run {seconds:.0f} s; everything that was started has ended\n\nto try next:")
        say(TO_TRY.format(streamrec=_short(COMMAND), log=_short(sample_log())), soft_wrap=True)

    def _in_words(self, basket: Basket, slate: Slate) -> Table:
        when = datetime.fromtimestamp(basket.ts / 1000, UTC)
        bought = len(basket.items & {place.item_id for place in slate.items[:FIRST]})
        self._console.print(
            f"\nfor customer {basket.user_id} on {when:%d %B %Y}: {bought} of these {FIRST} were bought next"
        )
        table = Table(show_edge=False)
        for name in ("", "recommended", "wanted most by", "bought"):
            table.add_column(name, overflow="fold")
        for place in slate.items[:FIRST]:
            mark = "yes" if place.item_id in basket.items else ""
            table.add_row(str(place.position), self._catalogue.title(place.item_id), wanted_by(place), mark)
        return table


class _LiveDisplay:
    """Drawn anew whenever the screen is refreshed."""

    def __init__(self, display: Display, figures: Figures) -> None:
        self._display = display
        self._figures = figures

    def __rich__(self) -> Group:
        return self._display.picture(self._figures)


def wanted_by(place: SlateItem) -> str:
    """The model with the largest part of the score; the item's own age has a part too."""
    return max(place.shares, key=place.shares.__getitem__, default="").replace("item", "the item's age")


def _table(figures: Figures) -> Table | Text:
    if figures.scored == 0:
        return Text(f"warming up: {figures.answered:,} slates so far; figures follow")
    table = Table(
        title=f"hit rate at {FIRST} of the slates, beside popularity's with half-lives of:",
        title_justify="right",
        show_edge=False,
    )
    popular = {name.removeprefix("popularity_"): rate for name, rate in figures.popular_rates().items()}
    popular = {"hours" if name == "popularity" else name: rate for name, rate in popular.items()}
    for name in ("events/s", "lag", "p50 ms", "p99 ms", "slates", *popular):
        table.add_column(name, justify="right")
    table.add_row(
        f"{figures.events_per_s:,.0f}",
        f"{figures.lag:,}",
        f"{figures.latency_ms(0.5):.0f}",
        f"{figures.latency_ms(0.99):.0f}",
        *(f"{rate:.4f}" for rate in (figures.hit_rate, *popular.values())),
    )
    return table


def _short(path: Path) -> str:
    """Relative to where the person stands, where that is possible."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
