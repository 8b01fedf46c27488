"""The Grafana dashboard, deploy/grafana/streamrec.json, from the rows and panels below. `tools/docs` writes it."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

FILE = Path(__file__).parents[1] / "deploy" / "grafana" / "streamrec.json"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, HEIGHT, COLUMNS = 8, 7, 24
"""Of a panel and of the page, in Grafana's units."""


class Panel(NamedTuple):
    """One graph: a title, what the figures count in (Grafana's name), and expressions by legend."""

    title: str
    unit: str
    lines: dict[str, str]
    about: str = ""


def rate(counter: str, *by: str, over: str = "$__rate_interval") -> str:
    return f"sum by ({', '.join(by)}) (rate({counter}[{over}]))"


def mean(histogram: str, over: str = "$__rate_interval") -> str:
    return f"{rate(f'{histogram}_sum', over=over)} / {rate(f'{histogram}_count', over=over)}"


def quantile(share: float, histogram: str) -> str:
    return f"histogram_quantile({share}, {rate(f'{histogram}_bucket', 'le')})"


def of_who_learns(gauge: str) -> str:
    """By list, without the last words of a learner that stands by now."""
    return f"max by (list) ({gauge} and on (instance) rate(streamrec_trials_total[15m]) > 0)"


LATENCY, CHECKPOINT, SNAPSHOT = (f"streamrec_{name}_seconds" for name in ("slate_latency", "checkpoint", "snapshot"))
BY_INSTANCE = "{{instance}}"
ROWS = {
    "Now": [
        Panel("Events", "ops", {BY_INSTANCE: rate("streamrec_events_total", "instance")}),
        Panel("Slates", "ops", {"{{scenario}}": rate("streamrec_slates_total", "scenario")}),
        Panel(
            "Slate latency",
            "s",
            {"p50": quantile(0.5, LATENCY), "p99": quantile(0.99, LATENCY)},
            "From the request's time of sending to its slate.",
        ),
        Panel(
            "Lag by partition", "short", {"{{partition}}": "max by (partition) (streamrec_lag)"}, "Events not read yet."
        ),
        Panel("Models behind, seconds", "s", {BY_INSTANCE: "streamrec_models_behind_seconds"}),
        Panel("Models behind, events", "short", {BY_INSTANCE: "streamrec_models_behind_events"}),
        Panel("Dead letters", "ops", {"{{reason}}": rate("streamrec_dead_letters_total", "reason")}),
        Panel("Refused requests", "ops", {"{{reason}}": rate("streamrec_refused_requests_total", "reason")}),
        Panel(
            "At work",
            "short",
            {
                "workers that read": "count(streamrec_paused == 0)",
                "learners that learn": "sum(streamrec_learner_at_work)",
                "workers that hear no learner": "sum(streamrec_learner_away)",
            },
        ),
    ],
    "Learning": [
        Panel(
            "Hit rate",
            "percentunit",
            {"{{list}}": of_who_learns("streamrec_hit_rate")},
            "Wanted items of late in the first ten of a list before they were learned. fused: highest.",
        ),
        Panel("Progressive loss", "short", {"{{list}}": of_who_learns("streamrec_progressive_loss")}, "Nats, of late."),
        Panel(
            "Alarms within an hour",
            "short",
            {
                "drift: {{model}}, {{measure}}": "sum by (model, measure) (increase(streamrec_drift_total[1h]))",
                "rollback: {{model}}": "sum by (model) (increase(streamrec_rollbacks_total[1h]))",
                "in quarantine: {{model}}": "max by (model) (streamrec_quarantined)",
            },
        ),
        Panel("Examples learned", "ops", {BY_INSTANCE: rate("streamrec_examples_learned_total", "instance")}),
        Panel("Examples not learned yet", "short", {BY_INSTANCE: "streamrec_examples_lag"}),
        Panel("Outcomes", "ops", {"outcomes": rate("streamrec_outcomes_total")}, "Places seen, and what came of them."),
    ],
    "Store and disk": [
        Panel("Checkpoint", "s", {"mean": mean(CHECKPOINT), "p99": quantile(0.99, CHECKPOINT)}),
        Panel("Snapshot", "s", {"mean": mean(SNAPSHOT, "15m")}),
        Panel(
            "Paused",
            "short",
            {BY_INSTANCE: "streamrec_paused", "pauses: {{reason}}": rate("streamrec_pauses_total", "reason")},
            "1 while nothing is read.",
        ),
        Panel(
            "Lost, since processes started",
            "short",
            {
                "values that Redis lost": "sum(streamrec_lost_values_total)",
                "records deleted unread": "sum(streamrec_skipped_records_total)",
                "snapshots not kept": "sum(streamrec_unsaved_snapshots_total)",
                "keys misplaced": "sum(streamrec_misplaced_events_total)",
            },
        ),
        Panel("Memory", "bytes", {BY_INSTANCE: "process_resident_memory_bytes and on (instance) streamrec_build_info"}),
        Panel(
            "CPU",
            "short",
            {BY_INSTANCE: "rate(process_cpu_seconds_total[$__rate_interval]) and on (instance) streamrec_build_info"},
        ),
    ],
}


def of_namespace(expression: str) -> str:
    """The expression, of the namespace chosen alone; where no target has one, of all."""
    return re.sub(r"\b(?:streamrec|process)_\w+", r'\g<0>{namespace=~"$namespace"}', expression)


def panels() -> Iterator[dict[str, Any]]:
    top = number = 0
    for title, row in ROWS.items():
        place = {"x": 0, "y": top, "w": COLUMNS, "h": 1}
        yield {"id": (number := number + 1), "type": "row", "title": title, "gridPos": place, "panels": []}
        top += 1
        for at, panel in enumerate(row):
            down, right = divmod(at * WIDTH, COLUMNS)
            yield {
                "id": (number := number + 1),
                "type": "timeseries",
                "title": panel.title,
                "description": panel.about,
                "datasource": SOURCE,
                "gridPos": {"x": right, "y": top + down * HEIGHT, "w": WIDTH, "h": HEIGHT},
                "targets": [
                    {
                        "refId": "ABCDEF"[n],
                        "datasource": SOURCE,
                        "expr": of_namespace(expression),
                        "legendFormat": legend,
                    }
                    for n, (legend, expression) in enumerate(panel.lines.items())
                ],
                "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
                "options": {"tooltip": {"mode": "multi", "sort": "desc"}},
            }
        top += -(-len(row) * WIDTH // COLUMNS) * HEIGHT


def dashboard() -> dict[str, Any]:
    return {
        "uid": "streamrec",
        "title": "streamrec",
        "tags": ["streamrec"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus"},
                {
                    "name": "namespace",
                    "type": "query",
                    "datasource": SOURCE,
                    "query": {"query": "label_values(streamrec_build_info, namespace)", "refId": "namespace"},
                    "refresh": 2,
                    "includeAll": True,
                    "allValue": ".*",
                    "current": {"text": "All", "value": "$__all"},
                },
            ]
        },
        "annotations": {
            "list": [
                {
                    "name": "Alerts",
                    "enable": True,
                    "iconColor": "red",
                    "datasource": SOURCE,
                    "expr": 'ALERTS{alertname=~"Streamrec.*", alertstate="firing"}',
                    "titleFormat": "{{alertname}}",
                }
            ]
        },
        "panels": list(panels()),
    }


def text() -> str:
    return json.dumps(dashboard(), indent=1) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="tools/docs", description="Write the dashboard.")
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        sys.exit(0 if FILE.read_text(encoding="utf-8") == text() else f"{FILE} is stale: run tools/docs")
    FILE.write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    main()
