"""The documents agree with the program: figures, commands, files, columns, links, length."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from hemax_batch.cli.app import main
from hemax_batch.interchange.export import FORMATS
from hemax_batch.outputs.tables import CELL_COLUMNS, DIFFERENTIAL_COLUMNS, REGION_COLUMNS
from hemax_batch.review.corrections import COLUMNS as CORRECTION_COLUMNS
from hemax_batch.vocabulary import CLASS_NAMES, WHITE_NAMES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.glob("*.md")])


def all_commands(
    group: click.Group = main, prefix: str = ""
) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from all_commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


COMMANDS = dict(all_commands())


def test_every_figure_is_that_of_the_weights_or_of_the_evidence():
    """`python docs/fill_figures.py` brings the pages up to date."""
    script = [sys.executable, str(DOCS / "fill_figures.py"), "--check"]
    done = subprocess.run(script, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", sorted((DOCS / "evidence").glob("*.json")), ids=lambda p: p.stem)
def test_evidence_names_its_command_and_its_machine(path):
    record = json.loads(path.read_text("utf-8"))
    assert record["command"] and record["figures"] and record["hardware"]
    assert set(record) >= {"weights_sha256", "source", "note"}


def test_the_readme_fits_on_a_page():
    text = (ROOT / "README.md").read_bytes()
    assert len(text) <= 8192


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented_with_an_example(name):
    usage = "\n".join(page.read_text("utf-8") for page in DOCS.glob("*.md"))
    assert re.search(rf"^    hemax-batch {name}\b", usage, re.M), f"docs/usage.md lacks {name}"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_in_its_help(name):
    shown = CliRunner().invoke(main, [*name.split(), "--help"])
    assert shown.exit_code == 0
    assert re.search(rf"Examples?:\n +hemax-batch {name}\b", shown.output), shown.output


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_the_examples_use_options_that_exist(page):
    for line in re.findall(r"^    (?:bin/)?hemax-batch (.+)$", page.read_text("utf-8"), re.M):
        words = line.split()
        name = " ".join(words[:2]) if words[0] in ("models",) else words[0]
        known = {option for param in COMMANDS[name].params for option in param.opts}
        used = {word for word in words if word.startswith("--") and word != "--help"}
        assert used <= known, line


def test_every_column_is_documented():
    """`<class>` stands for any class."""
    text = (DOCS / "results.md").read_text("utf-8")
    documented = set(re.findall(r"`([^`]+)`", text))
    known = {*CLASS_NAMES, *WHITE_NAMES, "neutrophils"}
    names = "|".join(sorted(known, key=len, reverse=True))
    for column in (*CELL_COLUMNS, *DIFFERENTIAL_COLUMNS, *REGION_COLUMNS, *CORRECTION_COLUMNS):
        shown = re.sub(rf"(^|_)({names})(_|$)", r"\1<class>\3", column)
        assert {column, shown} & documented, f"docs/results.md lacks the column {column}"


def test_every_file_is_documented():
    text = (DOCS / "results.md").read_text("utf-8")
    exports = [f.file for f in FORMATS]
    for name in (
        "cells.csv", "differential.csv", "differential.json", "regions.csv", "result.json", "run.json",
        "masks.zarr", "cells.geojson", "pictures.zip", "overview.jpg", "report.html", "index.html",
        *exports,
    ):  # fmt: skip
        assert name in text, name


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    text = page.read_text("utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists(), target


def test_paths_of_modules_in_the_documents_exist():
    for page in PAGES:
        for path in re.findall(
            r"`((?:hemax_batch|examples|tests|bin|docs)/[\w./-]+)`", page.read_text("utf-8")
        ):
            assert (ROOT / path).exists(), f"{page.name}: {path}"
    text = (DOCS / "architecture.md").read_text("utf-8") + (ROOT / "CONTRIBUTING.md").read_text(
        "utf-8"
    )
    for path in re.findall(r"`([a-z]\w+/[\w./]*\w+\.py)`", text):
        assert (ROOT / path).exists() or (ROOT / "hemax_batch" / path).exists(), path
