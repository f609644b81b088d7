"""Imports go downwards only, start-up is light, and the package exports what it says."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import hemax_batch

ROOT = Path(hemax_batch.__file__).parent
#: From the top down: a module may import from its own layer (within its folder) and from those below.
LAYERS = (
    {"__main__"}, {"bench"}, {"cli"}, {"cli_slides", "cli_learning", "cli_models", "cli_review"}, {"doctor", "pipeline", "interchange", "laboratory"}, {"learning"}, {"running"}, {"review"},
    {"results", "smear"}, {"settings"}, {"slides", "model", "cells", "outputs"},
    {"records", "mask_packing", "vocabulary", "geometry", "errors"},
)  # fmt: skip
_LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def modules():
    return sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    """Which parts of the package a file imports, by any import anywhere in it."""
    inside = path.relative_to(ROOT.parent).with_suffix("").parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom):
            base = inside[: len(inside) - node.level] if node.level else ()
            prefix = ".".join((*base, node.module or "")).rstrip(".")
            names = [f"{prefix}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {
            name.split(".")[1]
            for name in names
            if name.startswith("hemax_batch.") and name.split(".")[1] != "__version__"
        }
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_downwards(path):
    part = part_of(path)
    assert part in _LEVEL, f"{part} has no layer: add it to LAYERS where it belongs"
    upwards = {
        other for other in imported_parts(path) if other != part and _LEVEL[other] < _LEVEL[part]
    }
    assert not upwards


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_know_only_what_is_theirs(path):
    text, part = path.read_text("utf-8"), part_of(path)
    if part == "slides":
        assert "torch" not in {n.split(".")[0] for n in absolute_imports(text)}
    if part == "model":
        assert "slides" not in imported_parts(path)


def absolute_imports(text: str) -> set[str]:
    tree = ast.parse(text)
    plain = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    return plain | {
        n.module
        for n in ast.walk(tree)
        if isinstance(n, ast.ImportFrom) and not n.level and n.module
    }


def test_the_command_line_imports_nothing_heavy():
    heavy = "torch numpy scipy skimage dask distributed zarr openslide tifffile PIL pandas rich"
    code = f"import sys, hemax_batch.cli; print([m for m in {heavy.split()} if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


def test_exported_names():
    assert [
        name
        for name in vars(hemax_batch)
        if not name.startswith("_") and name.islower() and callable(getattr(hemax_batch, name))
    ] == []
    assert hemax_batch.__version__
