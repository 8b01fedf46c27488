"""The window: the page at `/` of a gateway in a real browser, on a small system that runs.

With WINDOW_SCREENSHOTS set to a folder, pictures of each view are kept there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from confluent_kafka import Producer
from selenium.webdriver import Chrome, ChromeOptions, Keys
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from streamrec.codec import MSGPACK, MSGPACK_HEADERS, encode
from streamrec.config.settings import shown
from streamrec.config.toml import toml_lines
from streamrec.demo.embedded import EmbeddedBroker, EmbeddedRedis, free_ports
from streamrec.events import EventType, Outcome
from streamrec.gateway.server import DRAIN_S
from tests.support.deployment import Deployment, WorkerProcess, until

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
AXE = Path(__file__).parents[1] / "support" / "axe" / "axe.min.js"
WIDE, PHONE = 1200, 375
HOSTILE_ITEM, HOSTILE_USER = "<img src=x onerror=taken()>", "<script>taken()</script>"
HOSTILE_TITLE = "\"'><script>taken()</script> \u202egnp.exe"
LONG = "long-" + "0123456789" * 20
"""An id."""

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no Chromium with its driver: apt-get install chromium chromium-driver"
)


@dataclass
class Scene:
    """What runs, and a browser before it."""

    door: httpx.Client
    browser: Chrome
    deployment: Deployment
    serving: WorkerProcess

    def open(self, path: str = "/", width: int = WIDE, *, dark: bool = False) -> None:
        """Go to a page, on a screen of so many pixels."""
        theme = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": theme})
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        self.browser.get(f"{self.door.base_url}{path}")

    def one(self, selector: str) -> WebElement:
        """The one element."""
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """What an element says now; nothing where it is not."""
        return str(self.script(f"return document.querySelector({selector!r})?.innerText ?? ''"))

    def says(self, selector: str, words: str) -> None:
        """Wait until an element says so."""
        until(lambda: words in self.text(selector))

    def script(self, source: str) -> Any:
        """What a script returns."""
        return self.browser.execute_script(source)

    def press(self, *keys: str) -> None:
        """Type, wherever the focus is."""
        ActionChains(self.browser).send_keys(*keys).perform()

    def picture(self, name: str) -> None:
        """Keep what is seen, where somebody wants it."""
        folder = os.environ.get("WINDOW_SCREENSHOTS")
        if folder is None:
            return
        width = self.script("return innerWidth")
        height = self.script("return document.documentElement.scrollHeight")
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        self.browser.save_screenshot(str(Path(folder) / f"{name}.png"))


@pytest.fixture(scope="module")
def scene(
    tansu: EmbeddedBroker, redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    place = tmp_path_factory.mktemp("window")
    port, worker_port = free_ports(2)
    deployment = Deployment(
        place,
        tansu.settings,
        redis_server.url,
        partitions=2,
        preset="fast",
        gateway={"port": port, "metrics": [f"127.0.0.1:{worker_port}"]},
    )
    watched = place / "worker.toml"
    settings = deployment.settings.model_copy(update={"metrics_port": worker_port})
    watched.write_text("\n".join(toml_lines(shown(settings))), encoding="utf-8")
    with (
        WorkerProcess(watched, place / "worker.log") as worker,
        WorkerProcess(deployment.config, place / "door.log", "serve") as serving,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as door,
        browser() as seen,
    ):
        until(lambda: answers(door), serving)
        fill(door)
        ask = {"user_id": "u1", "k": 4, "deadline_ms": 10_000, "explain": True}
        until(lambda: "degraded" not in door.post("/v1/recommendations", json=ask).json(), worker)
        slate = door.post("/v1/recommendations", json=ask).json()
        said = {"rec_id": slate["rec_id"], "type": "purchase", "item_id": slate["items"][0]["item_id"]}
        assert door.post("/v1/feedback", json=said).status_code == 202
        yield Scene(door, seen, deployment, serving)


def fill(door: httpx.Client) -> None:
    """A catalogue, a history, and what cannot be used."""
    lamps = [{"item_id": f"i{number}", "title": f"Brass lamp {number}"} for number in range(40)]
    assert door.post("/v1/items", json=[*lamps, {"item_id": HOSTILE_ITEM, "title": HOSTILE_TITLE}]).status_code == 202
    history = [event(f"u{number % 30}", f"i{number * number % 40}") for number in range(800)]
    others = [event(HOSTILE_USER, HOSTILE_ITEM), event(LONG, "i1"), event("u1", HOSTILE_ITEM), event("u1", LONG)]
    assert door.post("/v1/events", json=history + others).status_code == 202


def event(user: str, item: str, kind: str = "click") -> dict[str, str]:
    return {"type": kind, "user_id": user, "item_id": item}


def answers(door: httpx.Client) -> bool:
    try:
        return door.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def browser() -> Chrome:
    options = ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--lang=en"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return Chrome(options=options, service=Service(DRIVER))


def number_in(text: str) -> float:
    return float("".join(c for c in text.split()[0] if c.isdigit() or c == "."))


# Without scripts


def test_the_page_as_it_is_sent_has_the_figures_and_no_text_of_others_as_markup(scene: Scene) -> None:
    send_unusable(scene)
    until(lambda: "messages could not be used in 24 h" in scene.door.get("/").text)
    for query in (
        f"kind=user&q={quote(HOSTILE_USER)}",
        f"kind=item&q={quote(HOSTILE_ITEM)}",
        f"kind={quote(HOSTILE_USER)}&q={quote(HOSTILE_TITLE)}",
        "kind=user&q=u1",
        "letter=" + quote(HOSTILE_USER),
    ):
        until(lambda query=query: "No worker has saved" not in scene.door.get(f"/?{query}").text)
        answer = scene.door.get(f"/?{query}")
        assert answer.status_code == 200
        assert "taken()" in answer.text
        assert "<script>taken" not in answer.text
        assert "<img" not in answer.text
        assert "\u202e" not in answer.text
        policy = answer.headers["content-security-policy"]
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
    page = scene.door.get("/").text
    for view in ("now", "learning", "business", "lookup", "dead"):
        assert f'<section id="{view}"' in page
    tried = scene.door.post("/window/try", data={"user_id": "plain", "k": "3"}).text
    assert "Try a request" in tried
    assert tried.count("Brass lamp") >= 3


def send_unusable(scene: Scene) -> None:
    producer = Producer(dict(scene.deployment.settings.kafka))
    bad = json.dumps({"type": HOSTILE_USER, "user_id": "u1", "item_id": "i1", "ts": 1})
    for key, value in ((b"u1", b"{no json"), (HOSTILE_USER.encode(), bad.encode())):
        producer.produce(scene.deployment.settings.topics.events, value, key)
    assert producer.flush(30) == 0


# In a browser


def test_figures_come_by_themselves(scene: Scene) -> None:
    scene.open()
    scene.script("window.sameDocument = true")
    scene.says("#state", "ready")
    until(lambda: number_in(scene.text("#t-events p:last-child")) >= 800)
    before = number_in(scene.text("#t-events p:last-child"))
    assert scene.door.post("/v1/events", json=[event("live", f"i{number}") for number in range(30)]).status_code == 202
    until(lambda: number_in(scene.text("#t-events p:last-child")) >= before + 30)
    until(lambda: len(scene.browser.find_elements(By.CSS_SELECTOR, ".uplot canvas")) == 4)
    assert scene.script("return window.sameDocument")
    scene.says("#targets", "worker")
    scene.says("#targets", "0: 0")
    assert "s ago" in scene.text("#age")
    zone = scene.script("return Intl.DateTimeFormat().resolvedOptions().timeZone")
    assert f"Times are in {zone}" in scene.one("footer").text


def test_the_fused_list_stands_beside_every_model(scene: Scene) -> None:
    scene.open("/#learning")
    scene.says("#learning-lead", "of wanted items stood in the first ten")
    rows = [row.text for row in scene.browser.find_elements(By.CSS_SELECTOR, "#lists tr")]
    assert rows[0].startswith("slates")
    assert any(row.startswith("popularity") for row in rows[1:])
    assert "%" in rows[0]
    assert "No model is in quarantine" in scene.one("#out").text


def test_what_came_of_slates_is_counted_by_policy_and_item(scene: Scene) -> None:
    scene.open("/#business")
    producer = Producer(dict(scene.deployment.settings.kafka))
    for number in range(10):  # as a worker publishes them, once a slate's time is over
        outcome = Outcome(
            outcome_id=f"o{number}",
            rec_id="r",
            user_id="u1",
            item_id=f"i{number % 3}",
            position=1,
            propensity=1.0,
            reward=1.0 if number % 5 == 0 else 0.0,
            type=EventType.PURCHASE if number == 5 else None,
            ts=1_790_000_000_000,
            policy="greedy",
        )
        producer.produce(
            scene.deployment.settings.topics.outcomes, encode(outcome, MSGPACK), headers=[*MSGPACK_HEADERS]
        )
    assert producer.flush(30) == 0
    scene.says("#business-lead", "2 of 10 items seen on slates (20.0%) were then wanted, 1 bought")
    assert scene.text("#by-policy").split() == ["home", "greedy", "online", "10", "2", "20.0%", "1"]
    assert "Brass lamp 0" in scene.text("#by-item")


def test_an_item_is_found_as_one_types(scene: Scene) -> None:
    scene.open("/#lookup")
    scene.one("#q").send_keys("lamp 16")
    scene.says("#found", "Brass lamp 16")
    scene.one("#found a").click()
    scene.says("#answer h3", "Brass lamp 16")
    scene.says("#answer", "events (")
    assert "q=i16" in scene.browser.current_url
    scene.script("history.back()")
    until(lambda: "q=i16" not in scene.browser.current_url and scene.text("#answer") == "")
    scene.script("history.forward()")
    scene.says("#answer h3", "Brass lamp 16")
    scene.one("#answer form button").click()
    scene.says("#answer", "scenario similar")
    assert "Brass lamp" in scene.one("#answer tbody").text


def test_a_user_is_told_in_words_with_the_latest_slate_and_why_each_item(scene: Scene) -> None:
    scene.open("/?kind=user&q=u1#lookup")
    said = scene.one("#answer").text
    assert "heavy" in said
    assert "put here" in said
    assert "Brass lamp" in said
    assert "because of" in said
    assert "remembered" in said
    times = scene.browser.find_elements(By.CSS_SELECTOR, "#answer time")
    assert times
    assert "UTC" not in times[0].text
    assert not re.search(r"\d\dZ", said)
    scene.picture("user")


def test_a_request_can_be_tried(scene: Scene) -> None:
    scene.open("/#lookup")
    scene.one("details summary").click()
    field = scene.one("details input[name=user_id]")
    field.clear()
    field.send_keys("tried")
    scene.one("details form button").click()
    scene.says("#answer h3", "Slate")
    assert "10 of" in scene.one("#answer .facts").text
    assert "put here" in scene.one("#answer tbody").text
    choice = scene.one("details select")
    choice.send_keys("search")
    scene.one("details form button").click()
    scene.says("#answer .note", "query")


def test_a_dead_letter_is_looked_at_and_how_to_send_it_back_is_said(scene: Scene) -> None:
    scene.open("/#dead")
    scene.says("#dead-lead", "could not be used")
    scene.says("#kinds", "malformed")
    scene.one("#newest a").click()
    scene.says("#letter", "sent now: refused")
    assert "{no json" in scene.one("#letter pre").text or HOSTILE_USER in scene.one("#letter pre").text
    assert "streamrec dlq redrive" in scene.one("#dead pre").text


def test_everything_is_reached_by_keyboard(scene: Scene) -> None:
    scene.open()
    scene.press(Keys.TAB)
    assert scene.script("return document.activeElement.className") == "skip"
    reached = []
    for _ in range(60):
        scene.press(Keys.TAB)
        reached.append(scene.script("const a = document.activeElement; return a.id || a.name || a.textContent.trim()"))
        if reached[-1] == "q":
            break
    assert reached[:2] == ["Now", "Learning"]
    assert reached[-1] == "q"
    outline = scene.script("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    scene.press("u3", Keys.ENTER)
    scene.says("#answer h3", "u3")
    for _ in range(20):
        scene.press(Keys.TAB)
        if scene.script("return document.activeElement.closest('#answer') !== null"):
            break
    assert scene.script("return document.activeElement.closest('#answer') !== null")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [WIDE, PHONE], ids=["wide", "phone"])
def test_it_fits_and_shuts_nobody_out(scene: Scene, width: int, dark: bool) -> None:
    scene.open(f"/?kind=user&q={LONG if width == PHONE else 'u1'}", width, dark=dark)
    scene.says("#state", "ready")
    until(lambda: len(scene.browser.find_elements(By.CSS_SELECTOR, ".uplot canvas")) == 4)
    paper = scene.script("return getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, paper[4:-1].split(","))) < 60) is dark
    assert scene.script("return document.documentElement.scrollWidth <= innerWidth")
    assert LONG in scene.browser.page_source
    scene.script(AXE.read_text(encoding="utf-8"))
    found = scene.browser.execute_async_script("axe.run().then(arguments[0])")
    grave = [
        (one["id"], one["nodes"][0]["html"][:200])
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]
    assert grave == []
    assert len(found["passes"]) > 20
    scene.picture(f"{'phone' if width == PHONE else 'wide'}-{'dark' if dark else 'light'}")


def test_a_browser_has_nothing_to_complain_of(scene: Scene) -> None:
    scene.browser.get_log("browser")
    scene.open(f"/?kind=item&q={quote(HOSTILE_ITEM)}")
    scene.says("#answer h3", "taken()")
    scene.says("#state", "ready")
    assert scene.browser.title.startswith("streamrec")
    assert scene.browser.get_log("browser") == []


def test_an_open_window_says_when_the_gateway_is_gone_and_does_not_hold_it_up(scene: Scene) -> None:
    scene.open()
    scene.says("#age", "s ago")
    began = time.monotonic()
    assert scene.serving.stop() == 0
    assert time.monotonic() - began < DRAIN_S
    scene.script("freshAt -= 60_000; tellAge()")
    assert "warn" in scene.one("#age").get_attribute("class")
