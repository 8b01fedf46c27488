"""The figures of the window: rates and latencies over processes that begin anew, and who does not answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from streamrec.events import Item
from streamrec.gateway.keeping import CatalogueChange, KnownItems
from streamrec.gateway.last_hour import KEPT, LastHour
from streamrec.worker.scraping import LATENCY, Labels, Reading, read


def reading(events: float = 0.0, latencies: Mapping[str, float] | None = None) -> Reading:
    samples: dict[str, dict[Labels, float]] = {
        "streamrec_events_total": {(): events},
        LATENCY: {(("le", bound),): count for bound, count in (latencies or {}).items()},
        "streamrec_lag": {(("partition", "0"),): 3.0},
    }
    return Reading(0.0, samples, True, ("ready",))


@contextmanager
def page_server(body: bytes) -> Iterator[str]:
    """A server that says the same to everybody."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_process_that_begins_anew_counts_from_there() -> None:
    hour = LastHour()
    for at_s, events in ((0.0, 100.0), (10.0, 300.0), (20.0, 50.0)):
        hour.take(at_s, {"w:1": reading(events), "w:2": reading(7.0)})
    assert [sample.events_s for sample in hour.samples] == [None, 20.0, 5.0]


def test_of_nobody_who_answers_nothing_is_said() -> None:
    hour = LastHour()
    hour.take(0.0, {"w:1": reading()})
    hour.take(5.0, {"w:1": Reading(5.0, error="refused")})
    assert (hour.samples[-1].lag, hour.samples[-1].events_s, hour.samples[-1].behind_s) == (None, None, None)
    assert hour.samples[0].lag == 3.0


def test_latencies_are_those_of_late_within_their_bucket() -> None:
    hour = LastHour()
    hour.take(0.0, {"w:1": reading(latencies={"0.1": 1000.0, "0.2": 1000.0, "+Inf": 1000.0})})
    hour.take(5.0, {"w:1": reading(latencies={"0.1": 1000.0, "0.2": 1010.0, "+Inf": 1010.0})})
    assert hour.samples[0].p50_ms is None
    assert hour.samples[-1].p50_ms == pytest.approx(150.0)
    assert hour.samples[-1].p99_ms == pytest.approx(199.0)
    hour.take(10.0, {"w:1": reading(latencies={"0.1": 0.0, "0.2": 0.0, "+Inf": 0.0})})  # began anew
    assert hour.samples[-1].p50_ms == pytest.approx(150.0)


def test_an_hour_is_kept_and_no_more() -> None:
    hour = LastHour()
    for number in range(KEPT + 5):
        hour.take(5.0 * number, {"w:1": reading(events=number)})
    assert (len(hour.samples), hour.samples[0].at_s) == (KEPT, 25.0)


@pytest.mark.parametrize(
    "body", [b"<!doctype html><p class=x>no {figures", b"\x00\xff{", b"streamrec_lag{partition=", b""]
)
def test_whatever_a_process_says_costs_nobody_else_anything(body: bytes) -> None:
    with page_server(body) as address:
        said = read(address)
    assert said.error is not None
    assert not said.samples
    assert read(address).error is not None  # nobody is there any more
    assert read("127.0.0.1:99999").error is not None


def test_items_are_found_by_words_of_title_and_id_and_withdrawn_ones_are_not() -> None:
    known = KnownItems([Item(item_id="a1", title="Brass LAMP, small"), Item(item_id="a2", title="Brass lamp, large")])
    assert known.find("lamp brass", 5) == ["a1", "a2"]
    assert known.find("A2", 5) == ["a2"]
    assert known.find("brass", 1) == ["a1"]
    known.hear([CatalogueChange("a1", None)])
    assert known.find("brass", 5) == ["a2"]
    assert known.title("a1") is None
