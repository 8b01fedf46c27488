"""The demonstration: it completes, beats popularity, and leaves nothing behind, however it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from streamrec.demo.baskets import Basket
from streamrec.demo.embedded import apache_kafka_home
from streamrec.demo.figures import DecayedCounts, Figures
from streamrec.demo.sample import sample_items
from streamrec.events import Event, EventType, Slate, SlateItem
from streamrec.replay.catalogue_file import read_catalogue

RUN_LIMIT_S = 240.0  # the first one on a machine compiles loops
HOUR_MS = 3_600_000

Start = Callable[..., "subprocess.Popen[str]"]


# Figures


def basket(number: int, ts: int, *items: str) -> Basket:
    return Basket(
        number,
        tuple(Event(type=EventType.PURCHASE, user_id="u", ts=ts, item_id=item, session_id="s") for item in items),
    )


def slate_for(asked: Basket, *items: str) -> Slate:
    places = tuple(
        SlateItem(item_id=item, position=at + 1, score=0.0, propensity=1.0, shares={}) for at, item in enumerate(items)
    )
    return Slate(
        rec_id="0-0",
        user_id=asked.user_id,
        ts=asked.ts,
        items=places,
        policy="greedy",
        version="0",
        candidates=len(items),
        request_id=asked.request.event_id,
    )


def test_a_purchase_counts_half_after_each_half_life() -> None:
    counts = DecayedCounts(3600.0, ["old", "new", "never"])
    counts.learn(basket(0, 0, "old"))
    counts.learn(basket(1, 0, "old"))
    counts.learn(basket(2, 0, "old"))
    counts.learn(basket(3, HOUR_MS, "new"))
    assert counts.top(10) == ["old", "new"]  # 1.5 beside 1
    counts.learn(basket(4, 2 * HOUR_MS, "new"))
    assert counts.top(10) == ["new", "old"]  # 1.5 beside 0.75
    assert counts.top(1) == ["new"]


def test_popularity_does_not_know_the_basket_it_is_judged_by() -> None:
    figures = Figures({"hours": 3600.0}, ["a", "b"], warmup=0)
    for number, items in enumerate((("a",), ("b",), ("a",))):
        asked = basket(number, number, *items)
        figures.ask(asked, now_s=0.0)
        figures.buy(asked)
        figures.answer(slate_for(asked, "a"), now_s=1.0)
    assert figures.popular_rates() == {"hours": pytest.approx(1 / 3)}  # only the last was known by then
    assert figures.hit_rate == pytest.approx(2 / 3)
    assert figures.lift().difference == pytest.approx(1 / 3)
    assert (figures.sent, figures.handled, figures.lag) == (6, 5, 1)  # the last purchase comes after the last answer


def test_only_the_first_ten_places_count() -> None:
    figures = Figures({"hours": 3600.0}, ["wanted"], warmup=0)
    asked = basket(0, 0, "wanted")
    figures.ask(asked, now_s=0.0)
    figures.answer(slate_for(asked, *(f"i{place}" for place in range(10)), "wanted"), now_s=0.0)
    assert (figures.scored, figures.hits.purchases, figures.hits.baskets) == (1, 0, 0)


def test_the_warm_up_and_requests_not_judged_are_left_out_of_every_figure() -> None:
    figures = Figures({"hours": 3600.0}, ["a"], warmup=1)
    for number, (answered_s, judged) in enumerate(((9.0, True), (10.05, True), (99.0, False))):
        asked = basket(number, number, "a")
        figures.ask(asked, now_s=10.0 if number else 0.0, judged=judged)
        figures.buy(asked)
        figures.answer(slate_for(asked, "a"), now_s=answered_s)
    assert (figures.answered, figures.scored, figures.hits.baskets) == (3, 1, 1)
    assert figures.latency_ms(0.99) == pytest.approx(50.0)


def test_a_slate_that_nobody_here_asked_for_changes_nothing() -> None:
    figures = Figures({"hours": 3600.0}, ["a"], warmup=0)
    assert figures.answer(slate_for(basket(7, 0, "a"), "a"), now_s=0.0) is None
    assert figures.answered == 0


# The whole


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `python -m streamrec.demo` with a temporary folder of its own, by which its children are known too."""
    started: list[subprocess.Popen[str]] = []

    def launch(*options: str, apache: bool = False) -> subprocess.Popen[str]:
        surroundings = {**os.environ, "TMPDIR": str(tmp_path), "COLUMNS": "100"}
        # A setting of the person's own system must not reach the demonstration's.
        surroundings["STREAMREC_TOPICS__EVENTS"] = "somewhere-else"
        if not apache:
            surroundings.pop("KAFKA_HOME", None)
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "streamrec.demo", *options],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=surroundings,
            )
        )
        return started[-1]

    yield launch
    for demo in started:
        demo.kill()
        demo.wait(10)
        assert demo.stdout is not None
        demo.stdout.close()


def relatives(place: Path) -> list[str]:
    """Command lines of the processes that inherited `place` as their temporary folder, or stand in it.

    Valkey writes its title over its environment, but works in its folder.
    """
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            inherited = f"TMPDIR={place}".encode() in (process / "environ").read_bytes().split(b"\0")
            if inherited or (process / "cwd").readlink().is_relative_to(place):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue  # it ended, or is not ours to look at
    return found


def read_until(demo: subprocess.Popen[str], wanted: str) -> str:
    """The demonstration's output up to the line that holds `wanted`."""
    assert demo.stdout is not None
    text = ""
    for line in demo.stdout:
        text += line
        if wanted in line:
            return text
    raise AssertionError(f"{wanted!r} never came:\n{text}")


def assert_all_ended(place: Path) -> None:
    deadline = time.monotonic() + 10.0
    while relatives(place) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert relatives(place) == []


@pytest.mark.parametrize(
    "apache",
    [pytest.param(False, id="tansu"), pytest.param(True, id="apache_kafka", marks=pytest.mark.whole)],
)
def test_the_quick_demonstration_completes_and_beats_popularity(start: Start, tmp_path: Path, apache: bool) -> None:
    if apache and apache_kafka_home() is None:
        pytest.skip("no Apache Kafka here: set KAFKA_HOME to a folder with libs/*.jar, and install Java")
    demo = start("--quick", apache=apache)
    output, _ = demo.communicate(timeout=RUN_LIMIT_S)
    assert demo.returncode == 0, output
    assert ("Apache Kafka at" if apache else "Tansu at") in output
    assert "24,859 of 24,859 events handled in order" in output
    figures = re.search(
        r"([\d.]+)% of 21,604 purchases stood in their first ten, popularity_days has ([\d.]+)%", output
    )
    assert figures is not None, output
    assert float(figures[1]) > float(figures[2]) > 2.0
    with_hits = re.search(r"(\d+) of (\d+) slates .* held something that was then bought.*; of (\d+) nothing", output)
    assert with_hits is not None, output
    assert int(with_hits[1]) + int(with_hits[3]) == int(with_hits[2]) == 772
    bought = [int(count) for count in re.findall(r"(\d+) of these 10 were bought next", output)]
    assert [count > 0 for count in bought] == [True, True, False]  # customers with hits, and one without
    titles = {item.title for item in read_catalogue(sample_items()).values() if item.title}
    shown = [cell.strip() for line in output.splitlines() for cell in line.split("│")[1:2]]
    assert len(titles & set(shown)) >= 10  # slates in words, not in codes
    assert "streamrec backtest" in output
    assert relatives(tmp_path) == []
    assert list(tmp_path.glob("streamrec-*")) == []


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.whole)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_an_interrupted_demonstration_ends_everything_it_started(
    start: Start, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    demo = start()
    read_until(demo, " events: ")
    assert {"tansu", "valkey", "worker"} <= {
        word for line in relatives(tmp_path) for word in ("tansu", "valkey", "worker") if word in line
    }
    demo.send_signal(number)
    output, _ = demo.communicate(timeout=60)
    assert demo.returncode == code, output
    assert "Traceback" not in output
    assert relatives(tmp_path) == []
    assert list(tmp_path.glob("streamrec-*")) == []


@pytest.mark.whole
def test_a_demonstration_that_stays_can_be_looked_around_in(start: Start, tmp_path: Path) -> None:
    demo = start("--quick", "--stay")
    output = read_until(demo, "streamrec tail")
    assert "24,859 of 24,859 events handled in order" in output
    page = re.search(r"in a browser: (\S+)", output)
    assert page is not None
    user = re.search(r"streamrec user (\S+)", output)
    assert user is not None
    told = httpx.get(page[1], params={"kind": "user", "q": user[1]}, timeout=30).text
    assert "It learns" in told or "Too early" in told or "The first figures" in told
    assert "purchase" in told
    config = re.search(r"--config (\S+)", output)
    assert config is not None
    command = [sys.executable, "-m", "streamrec.cli", "tail", "--from-beginning", "--count", "1", "--json"]
    ours = {name: value for name, value in os.environ.items() if not name.startswith("STREAMREC_")}
    slate = subprocess.run([*command, "--config", config[1]], capture_output=True, text=True, timeout=60, env=ours)
    assert '"request-0"' in slate.stdout, slate.stderr
    demo.send_signal(signal.SIGINT)
    assert demo.wait(60) == 130
    assert relatives(tmp_path) == []


def test_a_demonstration_that_is_killed_takes_its_children_along(start: Start, tmp_path: Path) -> None:
    demo = start()
    read_until(demo, "worker process")
    demo.kill()
    demo.wait(10)
    assert_all_ended(tmp_path)


@pytest.mark.whole
def test_a_worker_that_dies_ends_the_demonstration_with_its_log(start: Start, tmp_path: Path) -> None:
    demo = start()
    worker = re.search(r"worker process (\d+)", read_until(demo, " events: "))
    assert worker is not None
    os.kill(int(worker[1]), signal.SIGKILL)
    output, _ = demo.communicate(timeout=60)
    assert demo.returncode == 1, output
    assert "the worker ended" in output
    assert relatives(tmp_path) == []
    assert list(tmp_path.glob("streamrec-*")) == []
