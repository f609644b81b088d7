"""Imports go downwards only, start-up is light, and the package exports what it says."""

import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT

import hemax_batch


def test_imports_go_downwards_and_in_no_circle():
    """The contracts in setup.cfg, which `bin/test` checks too."""
    pytest.importorskip("importlinter", reason="import-linter comes with the extra `test`")
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache", "setup.cfg"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_command_line_imports_nothing_heavy():
    heavy = "torch numpy scipy skimage dask distributed zarr openslide tifffile PIL pandas rich"
    code = (
        f"import sys, hemax_batch.cli.app; print([m for m in {heavy.split()} if m in sys.modules])"
    )
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
