"""Nothing that is read back can run: what lies on disk or in the store is data, whoever put it there."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "streamrec"
RUNS = ("eval", "exec", "compile", "__import__")
"""Builtins that run what they are given."""
LOADERS = frozenset({"torch.load", "pandas.read_pickle", "pd.read_pickle", "yaml.load", "yaml.unsafe_load"})
MODULES = frozenset({"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"})
OBJECTS = frozenset({"allow_pickle", "weights_only"})
"""Arguments that only loaders of objects have."""


def dangers(source: str) -> Iterator[str]:
    """Every call or import that could run what it reads, in words."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None) or ""
            named = [module, *(f"{module}.{alias.name}".lstrip(".") for alias in node.names)]
            yield from (f"imports {name}" for name in named if name.split(".")[0] in MODULES or name in LOADERS)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in RUNS or called in LOADERS:
                yield f"calls {called}"
            if called in ("np.load", "numpy.load") or OBJECTS & {keyword.arg for keyword in node.keywords}:
                yield f"calls {called}, which may load objects"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_loads_only_data(path: Path) -> None:
    assert list(dangers(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import joblib.numpy_pickle",
        "from torch import load",
        "import torch\ntorch.load('x')",
        "import yaml\nyaml.load(text)",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "eval('1')",
        "def f():\n    exec(text)",
        "import marshal",
    ],
)
def test_a_planted_danger_is_found(source: str) -> None:
    assert list(dangers(source))


@pytest.mark.parametrize(
    "source",
    ["import safetensors.numpy\nsafetensors.numpy.load(b'')", "module.eval()", "re.compile('a')", "torch.no_grad()"],
)
def test_what_only_sounds_like_one_is_not(source: str) -> None:
    assert list(dangers(source)) == []
