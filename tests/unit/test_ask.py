"""`streamrec ask`: one request at the end of a log, answered in words, as plain values, or refused in a clear line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from streamrec.cli import app, main
from streamrec.demo.sample import sample_items, sample_log
from streamrec.errors import LogError

LOG = (str(sample_log()), "--rows", "0:600", "--items", str(sample_items()))


def ask(*options: str) -> Result:
    return CliRunner().invoke(app, ["ask", *LOG, *options])


def test_a_request_is_answered_with_its_reasons() -> None:
    result = ask("--scenario", "similar", "--item", "22423", "-k", "3")
    assert result.exit_code == 0, result.output
    assert "asked: similar, item '22423'\n" in result.output
    assert "1 item left out: the request names it" in result.output
    assert "  3. " in result.output
    assert "  4. " not in result.output
    assert "wanted by" in result.output


def test_a_script_gets_one_object() -> None:
    result = ask("--scenario", "search", "--query", "regency", "--without-category", "Tins", "--json")
    assert result.exit_code == 0, result.output
    slate = json.loads(result.stdout)
    assert slate["scenario"] == "search"
    assert slate["items"]
    assert all("Regency" in item["title"] for item in slate["items"])
    assert any("filtered:" in rule for rule in slate["items"][0]["rules"])


def test_what_was_left_out_of_the_log_is_said(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    rows = [f"click,u,i{n},{1_700_000_000_000 + n}" for n in range(3)]
    log.write_text("\n".join(["type,user_id,item_id,ts", *rows, "click,u,i9,5"]), encoding="utf-8")
    result = CliRunner().invoke(app, ["ask", str(log), "--json", "--max-refused", "0.25"])
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["refused_rows"] == 1
    assert said["refused"]["past ts"]["first_row"] == 3
    assert isinstance(CliRunner().invoke(app, ["ask", str(log)]).exception, LogError)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--scenario", "similar"), "field 'item_id' is missing: a request of scenario 'similar' needs it"),
        (("--scenario", "similer", "--item", "22423"), "field 'scenario' is 'similer', expected one of home, similar"),
        (("--price", "9:dear"), "--price"),
    ],
)
def test_a_wrong_request_is_a_clear_line_and_exit_code_2(
    options: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["streamrec", "ask", *LOG, *options])
    monkeypatch.setattr("signal.signal", lambda *_: None)  # those of the tests stay
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""
