"""Imports go one way, and importing the package costs nothing."""

import ast
import importlib
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import avalanche_dgm

ROOT = Path(avalanche_dgm.__file__).parent
#: The layers from below; those with the same number may import each other.
LAYERS = {
    "errors": 0,
    "stubs": 0,
    "checks": 1,
    "files": 1,
    "randomness": 1,
    "modules": 1,
    "held": 1,
    "settings": 1,
    "stopping": 1,
    "classes": 2,
    "data": 1,
    "elastic": 1,
    "networks": 1,
    "models": 1,
    "optimizers": 1,
    "fitting": 1,
    "acceleration": 1,
    "losses": 2,
    "generators": 3,
    "memories": 4,
    "methods": 5,
    "streams": 5,
    "saving": 6,
    "metrics": 6,
    "dashboards": 7,
    "plugins": 8,
    "lightning": 9,
    "experiments": 10,
    "plots": 11,
    "papers": 12,
    "cli": 13,
    "__main__": 14,
}
FILES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def layer_of(path):
    return path.relative_to(ROOT).with_suffix("").parts[0]


@cache
def imported(path):
    """Every module that a file imports, anywhere in it, function bodies included."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def test_every_file_has_a_layer():
    assert {layer_of(path) for path in FILES} <= set(LAYERS)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path):
    mine = layer_of(path)
    for name in imported(path):
        parts = name.split(".")
        if parts[0] != "avalanche_dgm" or len(parts) < 2 or parts[1] not in LAYERS:
            continue
        other = parts[1]
        if other == mine:
            continue
        assert LAYERS[other] < LAYERS[mine] or (LAYERS[other] == LAYERS[mine] == 1), (
            f"{mine} imports {name}"
        )


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("avalanche", {"plugins", "streams", "experiments", "lightning"}),
        ("pytorch_lightning", {"lightning"}),
        ("lightning", {"lightning"}),
        ("torchmetrics", {"metrics", "lightning"}),
        ("wandb", {"dashboards", "plugins", "lightning"}),
    ],
)
def test_who_imports_the_frameworks(package, allowed):
    users = {layer_of(p) for p in FILES for name in imported(p) if name.split(".")[0] == package}
    assert users <= allowed


def test_one_module_imports_lightning():
    packages = {"pytorch_lightning", "lightning_fabric", "lightning"}
    users = {p for p in FILES for name in imported(p) if name.split(".")[0] in packages}
    assert users == {ROOT / "lightning" / "package.py"}


def test_the_check_would_find_something():
    users = {layer_of(p) for p in FILES for name in imported(p) if name.startswith("avalanche.")}
    assert "plugins" in users


def test_importing_the_package_loads_neither_torch_nor_avalanche():
    code = (
        "import sys, avalanche_dgm; avalanche_dgm.__version__; dir(avalanche_dgm);"
        "print([m for m in ('torch', 'avalanche', 'numpy', 'sklearn') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("name", avalanche_dgm.__all__)
def test_public_names(name):
    assert getattr(avalanche_dgm, name) is not None
    assert name in dir(avalanche_dgm)


def test_unknown_names():
    with pytest.raises(AttributeError, match="DGX"):
        avalanche_dgm.DGX  # noqa: B018


@pytest.mark.parametrize(
    "module",
    ["generators", "losses", "memories", "methods", "streams", "plugins", "plots", "errors"],
)
def test_all_lists_are_true(module):
    module = importlib.import_module(f"avalanche_dgm.{module}")
    for name in getattr(module, "__all__", []):
        assert hasattr(module, name)
