"""Alerts and the dashboard: Prometheus takes them, they name metrics that there are, and the runbook has each alert."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.support.exposed import exposed
from tools import dashboard

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules.yaml"
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]
]
DASHBOARD = json.loads(dashboard.FILE.read_text(encoding="utf-8"))
OF_TARGETS = {"namespace", "instance", "job", "le"}
"""Labels that whoever scrapes may set, and that of buckets."""


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not here: install Prometheus (Debian: apt-get install prometheus)")
    return found


def unknown(expression: str) -> list[str]:
    """What of an expression no worker or learner exposes: metrics, and labels that none of its metrics has."""
    metrics = exposed()
    named = re.findall(r"\b(streamrec_\w+)(?:\{([^}]*)\})?", expression)
    missing = [name for name, _ in named if name not in metrics]
    missing += [
        f"{name}{{{label}}}"
        for name, matchers in named
        for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)
        if label not in {*metrics.get(name, ()), *OF_TARGETS}
    ]
    labels = OF_TARGETS.union(*(metrics.get(name, ()) for name, _ in named))
    grouped = re.findall(r"\b(?:by|on|ignoring|without|group_left)\s*\(([^)]*)\)", expression)
    return missing + [label for names in grouped for label in re.findall(r"\w+", names) if label not in labels]


@pytest.mark.parametrize(
    "arguments",
    [("check", "config", "prometheus.yml"), ("check", "rules", RULES.name), ("test", "rules", "rules_test.yaml")],
    ids=" ".join,
)
def test_prometheus_takes_the_rules_and_they_fire_when_they_should(promtool: str, arguments: tuple[str, ...]) -> None:
    result = subprocess.run(
        [promtool, *arguments], cwd=RULES.parent, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_alert_is_tried_both_ways() -> None:
    cases = yaml.safe_load((RULES.parent / "rules_test.yaml").read_text(encoding="utf-8"))["tests"]
    tried = [case for test in cases for case in test["alert_rule_test"]]
    for alert in ALERTS:
        fired = [bool(case.get("exp_alerts")) for case in tried if case["alertname"] == alert["alert"]]
        assert {True, False} == {*fired}, alert["alert"]


def test_what_is_not_exposed_is_found() -> None:
    assert unknown('sum by (reason, colour) (rate(streamrec_slates{scenario="a", shade!="b"}[5m]))') == [
        "streamrec_slates", "streamrec_slates{scenario}", "streamrec_slates{shade}", "reason", "colour"
    ]  # fmt: skip
    assert unknown('sum by (list) (streamrec_hit_rate{list="fused"}) > 0') == []


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_asks_for_what_is_exposed_and_has_its_entry_in_the_runbook(alert: dict[str, Any]) -> None:
    assert unknown(alert["expr"]) == []
    assert alert["labels"]["severity"] in {"page", "ticket"}
    page, _, anchor = alert["annotations"]["runbook"].partition("#")
    text = (ROOT / page).read_text(encoding="utf-8")
    entries = dict(re.findall(r"^### (\w+)\n(.+(?:\n(?!#).*)*)", text, re.MULTILINE))
    assert anchor == alert["alert"].lower()
    assert len(entries[alert["alert"]].split()) >= 2


def test_the_runbook_has_no_entry_for_an_alert_that_is_gone() -> None:
    text = (ROOT / "docs" / "08-wrong.md").read_text(encoding="utf-8")
    assert re.findall(r"^### (Streamrec\w+)$", text, re.MULTILINE) == [alert["alert"] for alert in ALERTS]


def required(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


TEXT, WHOLE = {"type": "string", "minLength": 1}, {"type": "integer", "minimum": 0}
SOURCE = required(type={"const": "prometheus"}, uid={"const": "${datasource}"})
TARGET = required(refId=TEXT, datasource=SOURCE, expr=TEXT, legendFormat=TEXT)
PLACE = required(
    x=WHOLE, y=WHOLE, w={"type": "integer", "minimum": 1, "maximum": 24}, h={"type": "integer", "minimum": 1}
)
GRAPH = required(datasource=SOURCE, targets={"type": "array", "minItems": 1, "items": TARGET}, fieldConfig=required())
PANEL = required(id=WHOLE, type={"enum": ["row", "timeseries"]}, title=TEXT, gridPos=PLACE) | {
    "if": {"properties": {"type": {"const": "timeseries"}}},
    "then": GRAPH,
}
SHOWN = required(
    uid=TEXT,
    title=TEXT,
    schemaVersion={"type": "integer", "minimum": 30},
    panels={"type": "array", "minItems": 1, "items": PANEL},
    templating=required(list={"type": "array", "items": required(name=TEXT, type=TEXT)}),
    time=required(**{"from": TEXT, "to": TEXT}),
)
"""What Grafana cannot do without, of its dashboards' JSON model."""


def test_the_dashboard_is_what_the_script_makes_and_has_what_grafana_needs() -> None:
    assert dashboard.FILE.read_text(encoding="utf-8") == dashboard.text(), "run tools/docs"
    jsonschema.validate(DASHBOARD, SHOWN)
    assert [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"] == [*dashboard.ROWS]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    cells = [
        (place["x"] + right, place["y"] + down)
        for place in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for right in range(place["w"])
        for down in range(place["h"])
    ]
    assert len({*cells}) == len(cells)  # no panel covers another
    assert max(x for x, _ in cells) < dashboard.COLUMNS


@pytest.mark.parametrize(
    "target",
    [target for panel in DASHBOARD["panels"] for target in panel.get("targets", ())],
    ids=lambda target: target["expr"][:40],
)
def test_a_panel_asks_for_what_is_exposed(target: dict[str, Any]) -> None:
    assert unknown(target["expr"]) == []
    assert re.findall(r"\{namespace=~", target["expr"])
    if target["legendFormat"] != "{{instance}}":
        for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
            assert re.search(rf"by \([^)]*\b{label}\b", target["expr"])
