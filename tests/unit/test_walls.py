"""What import-linter's contracts cannot see: clocks, the environment and hidden randomness, and what imports load."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "streamrec"
ENGINE = PACKAGE / "engine"

WALL_CLOCK = (
    "time.time",
    "time.time_ns",
    "time.sleep",
    "datetime.now",
    "datetime.utcnow",
    "datetime.today",
    "date.today",
)
ENVIRONMENT = ("os.environ", "os.getenv", "os.putenv")
HIDDEN_RANDOMNESS = ("random", "secrets", "uuid")
UNSAFE = ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module named by an import, wherever it stands; `from a import b` names a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def uses(tree: ast.AST) -> Iterator[str]:
    """Every `a.b` in the source, and every `from a import b`, as its last two names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = node.value
            name = owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else ""
            yield f"{name}.{node.attr}"
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def below(name: str, roots: tuple[str, ...]) -> bool:
    return any(name == root or name.startswith(root + ".") for root in roots)


def breaches(source: str, *, pure: bool) -> list[str]:
    """What a module's source takes from where it must not, in words."""
    tree = ast.parse(source)
    named = set(imports(tree))
    found = [f"{name} is unsafe to read back" for name in named if below(name, UNSAFE)]
    if pure:
        found += [f"{name} draws from hidden state" for name in named if below(name, HIDDEN_RANDOMNESS)]
        found += [f"{use} is not an argument" for use in uses(tree) if use in WALL_CLOCK + ENVIRONMENT]
    return sorted(found)


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_time_settings_and_randomness_come_into_the_engine_as_arguments(path: Path) -> None:
    assert breaches(path.read_text(encoding="utf-8"), pure=path.is_relative_to(ENGINE)) == []


@pytest.mark.parametrize(
    "source",
    [
        "import os\nDEBUG = os.environ.get('DEBUG')",
        "import time\nnow = time.time()",
        "from datetime import datetime\nnow = datetime.now()",
        "import random",
        "def draw():\n    from uuid import uuid4",
        "import pickle",
    ],
)
def test_a_planted_breach_is_found(source: str) -> None:
    assert breaches(source, pure=True)


def test_a_stopwatch_is_no_clock() -> None:
    assert breaches("import time\nstarted = time.perf_counter()", pure=True) == []


@pytest.mark.parametrize(
    "module", ["streamrec", "streamrec.cli", "streamrec.codec", "streamrec.state", "streamrec.transport"]
)
def test_importing_the_vocabulary_loads_nothing_heavy(module: str) -> None:
    heavy = {"torch", "confluent_kafka", "faust", "river", "redis", "numba", "polars", "pyarrow", "matplotlib"}
    script = f"import sys, {module}; print(*sorted({heavy!r} & set(sys.modules)))"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60, cwd=PACKAGE.parent
    )
    assert loaded.stdout.split() == []


@pytest.mark.parametrize(
    ("preset", "unused"),
    [
        ("fast", {"torch", "river", "sklearn", "pandas", "scipy.special", "scipy.stats", "matplotlib"}),
        ("default", {"torch._dynamo", "sklearn", "pandas", "scipy.stats", "matplotlib"}),
    ],
)
def test_a_run_loads_nothing_that_it_does_not_use(preset: str, unused: set[str], tmp_path: Path) -> None:
    log, config = tmp_path / "log.csv", tmp_path / "streamrec.toml"
    log.write_text("ts,user_id,item_id,type\n1700000000000,u,i,click\n", encoding="utf-8")
    config.write_text('[learning]\ndevice = "cpu"\n[limits]\nmax_items = 2000\nmax_users = 2000\n')
    # Looked at when the first event comes: what is loaded later is loaded for the report.
    script = f"""
import sys
from streamrec.replay.logs import Log
records = Log.records
def looked_at(log, topic):
    unused = {unused | {"confluent_kafka", "redis", "faust"}!r}
    print("loaded:", *sorted(unused & set(sys.modules)), file=sys.stderr)
    yield from records(log, topic)
Log.records = looked_at
from streamrec.cli import main
main()
"""
    typed = ["backtest", str(log), "--preset", preset, "--config", str(config), "--out", str(tmp_path / "out")]
    ran = subprocess.run(
        [sys.executable, "-c", script, *typed], capture_output=True, text=True, timeout=120, cwd=PACKAGE.parent
    )
    assert re.search(r"^loaded:(.*)$", ran.stderr, re.MULTILINE), ran.stderr
    assert "loaded:\n" in ran.stderr
