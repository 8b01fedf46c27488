"""Every command of the pages runs, in the order of the page, on one broker and one Redis server for all of them.

How a page says what is to be run:

- ```sh: run from the root of the repository. What a block exports holds for the rest of the page.
- ```sh with a single command that runs until it is stopped (`streamrec worker`, `trends`, `tail` without `--count`):
  started beside the page and ended with it. A second worker takes the place of the first.
- ```python: run as a program.
- ```json: each object is sent as it stands: to the events topic, or to the items topic where it has no `type`.
- ```text: what is printed. With `<!-- exact -->` before it, the block before it must have printed just that.
- `<!-- not run: reason -->` before a block: left alone.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from confluent_kafka import Producer

from streamrec.config.groups import Redis, Topics
from streamrec.config.settings import Settings
from streamrec.demo.embedded import embedded_broker, embedded_redis
from streamrec.transport.positions import TopicReader
from streamrec.transport.topics import apply, plan
from streamrec.wiring import build_store
from tests.support.deployment import until
from tools.reference import handwritten

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("[0-9][0-9]-*.md"))]
BLOCK = re.compile(r"^(?:<!-- (?P<note>[^\n]+) -->\n)?```(?P<kind>\w*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN = "not run: "
KINDS = {"sh", "python", "json", "text", "toml", "yaml"}
EXPORTS = "exports.sh"
LIMIT_S = 300.0  # the first command may have every loop to compile, on a busy machine
PARTITIONS = 2


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block of a page, and what the comment before it says."""

    kind: str
    body: str
    note: str


def blocks_of(page: Path) -> list[Block]:
    """The page's blocks, in order."""
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [Block(match["kind"], match["body"], match["note"] or "") for match in found]


def command_beside(body: str) -> list[str]:
    """The command that runs until it is stopped, when the block holds one and nothing else; else nothing."""
    lines = body.strip().splitlines()
    words = shlex.split(lines[0], comments=True) if len(lines) == 1 else []
    endless = words[:2] in (["streamrec", "worker"], ["streamrec", "trends"])
    endless = endless or (words[:2] == ["streamrec", "tail"] and "--count" not in words)
    return words[1:] if endless else []


class Beside:
    """A process that runs until it is stopped. What it says goes to a file."""

    def __init__(self, command: list[str], place: Path, environment: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("wb") as output:
            self._child = subprocess.Popen(
                command, cwd=place, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    @property
    def said(self) -> str:
        """Everything it has printed."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._child.poll() is None

    def stop(self) -> None:
        """End it in good order."""
        self._child.terminate()
        try:
            self._child.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


@dataclass(slots=True)
class Reader:
    """Somebody who does what the pages say, in a folder that looks like the repository."""

    place: Path
    environment: dict[str, str]
    settings: Settings
    beside: dict[str, Beside] = field(default_factory=dict)
    printed: str = ""

    def read(self, page: Path) -> None:
        """Do everything that the page says."""
        try:
            for block in blocks_of(page):
                if not block.note.startswith(NOT_RUN):
                    self._do(block)
        finally:
            for name in list(self.beside):
                self._end(name)
            (self.place / EXPORTS).unlink(missing_ok=True)

    def _do(self, block: Block) -> None:
        match block.kind:
            case "sh":
                self._run(block.body)
            case "python":
                self._finish([sys.executable, "-c", block.body])
            case "json":
                self._send(block.body)
            case "text" if block.note == "exact":
                assert self.printed.split() == block.body.split()

    def _run(self, body: str) -> None:
        if command := command_beside(body):
            self._start(command)
            return
        self._finish(["bash", "-euo", "pipefail", "-c", f"{self._kept()}{body}\nexport -p > {EXPORTS}"])

    def _kept(self) -> str:
        """What gives a block the exports of those before it."""
        return f"source ./{EXPORTS}\n" if (self.place / EXPORTS).exists() else ""

    def _finish(self, command: list[str]) -> None:
        self._wait_for_worker()
        began = time.monotonic()
        done = subprocess.run(
            command,
            cwd=self.place,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        self.printed = done.stdout
        print(f"--- {time.monotonic() - began:.1f} s\n{command[-1]}\n--- printed\n{done.stdout}")
        assert done.returncode == 0, f"exit code {done.returncode}:\n{command[-1]}\nprinted:\n{done.stdout}"

    def _start(self, command: list[str]) -> None:
        self._end(command[0])
        typed = ["bash", "-c", f"{self._kept()}exec streamrec {shlex.join(command)}"]
        started = Beside(typed, self.place, self.environment, self.place / f"{command[0]}.log")
        self.beside[command[0]] = started
        if command[0] == "worker":
            until(lambda: "reading " in started.said, started, LIMIT_S)

    def _send(self, body: str) -> None:
        brokers = {"bootstrap.servers": self.settings.kafka["bootstrap.servers"], "partitioner": "murmur2_random"}
        producer, decoder, rest = Producer(brokers), json.JSONDecoder(), body.strip()
        while rest:
            said, end = decoder.raw_decode(rest)
            topic = self.settings.topics.events if "type" in said else self.settings.topics.items
            key = said["user_id"] if "type" in said else said["item_id"]
            producer.produce(topic, key=key, value=rest[:end])
            rest = rest[end:].strip()
        assert producer.flush(LIMIT_S) == 0

    def _wait_for_worker(self) -> None:
        """Until the worker has saved what was sent: a person who types does not outrun it."""
        worker = self.beside.get("worker")
        if worker is None:
            return
        with closing(TopicReader(self.settings.topics.events, self.settings.kafka)) as topic:
            sent = sum(topic.end().values())
        with closing(build_store(self.settings)) as store:
            until(lambda: sum(mark.watermark or 0 for mark in store.marks().values()) >= sent, worker, LIMIT_S)

    def _end(self, name: str) -> None:
        if (running := self.beside.pop(name, None)) is not None:
            running.stop()


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """With topics made, for every page but the first takes them for given."""
    place = tmp_path_factory.mktemp("pages")
    for entry in ROOT.iterdir():
        (place / entry.name).symlink_to(entry)
    with embedded_broker(apache=False) as broker, embedded_redis() as redis:
        settings = Settings(
            kafka=dict(broker.settings), redis=Redis(url=redis.url), topics=Topics(partitions=PARTITIONS)
        )
        apply(plan(settings.topics, settings.kafka), settings.kafka)
        own = {name: value for name, value in os.environ.items() if not name.startswith("STREAMREC_")}
        environment = {
            **own,
            "PATH": f"{Path(sys.executable).parent}:{own['PATH']}",
            "PYTHONPATH": str(ROOT),
            "XDG_STATE_HOME": str(place / "state"),
            "COLUMNS": "110",
            "STREAMREC_REDIS": redis.url,
            "STREAMREC_KAFKA": broker.bootstrap,
            **{f"STREAMREC_KAFKA__{name}": str(value) for name, value in broker.settings.items()},
            "STREAMREC_TOPICS__PARTITIONS": str(PARTITIONS),
            "STREAMREC_CHECKPOINTS__INTERVAL_S": "0.3",
            # A page asks the moment after it sent: with a learner beside, what is new comes half a second later.
            "STREAMREC_LEARNER__WHERE": "within",
        }
        yield Reader(place, environment, settings)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_says_can_be_done(reader: Reader, page: Path) -> None:
    reader.read(page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_command_is_hidden_from_these_tests(page: Path) -> None:
    assert {block.kind for block in blocks_of(page)} <= KINDS
    outside = BLOCK.sub("", handwritten(page.read_text(encoding="utf-8")))
    assert re.findall(r"^(?:```.*|    \S.*)$", outside, re.MULTILINE) == []
