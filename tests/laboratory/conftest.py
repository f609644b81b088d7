"""The simulated laboratory of the examples, made once, and what it says that is to be found."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "laboratory"))
import simulated_laboratory as simulated  # noqa: E402

from hemax_batch.cli.app import main  # noqa: E402


@pytest.fixture(scope="session")
def laboratory(tmp_path_factory) -> Path:
    """A folder with manual.csv, scans.csv, results, nights and truth.json."""
    folder = tmp_path_factory.mktemp("laboratory")
    simulated.simulate(folder, simulated.Sizes())
    return folder


@pytest.fixture(scope="session")
def truth(laboratory) -> dict:
    """What the simulation knows."""
    return json.loads((laboratory / "truth.json").read_text())


@pytest.fixture
def invoke():
    """Run a command; its exit code and output come back."""
    return lambda *args: CliRunner().invoke(main, [str(a) for a in args])
