"""Another laboratory: a source that is left out is left out everywhere, measured whole, and never called unseen when it
was not."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from labelled_images import write_layout
from PIL import Image

from hemax_batch.cli.evaluation import evaluate
from hemax_batch.cli.evaluation import transfer as command_line
from hemax_batch.cli.models import models
from hemax_batch.errors import DataError
from hemax_batch.learning.data.read_folder import read_folder
from hemax_batch.learning.data.sources import exclude_sources, remove_copies, trained_sources
from hemax_batch.learning.evaluation import metrics
from hemax_batch.learning.evaluation.calibration import calibrate
from hemax_batch.learning.evaluation.metrics import EvaluatedCell
from hemax_batch.learning.experiments import transfer
from hemax_batch.learning.experiments.transfer_table import COLUMNS, source_metrics, table_rows
from hemax_batch.learning.training import training_run
from hemax_batch.learning.training.recipe import Recipe
from hemax_batch.learning.training.training_run import TrainingSet, train_command
from hemax_batch.model.checkpoint import read_card
from hemax_batch.vocabulary import WHITE_NAMES

TINY = Recipe(
    steps=1,
    first_stage=0.0,
    synthetic=0,
    batch=2,
    canvas_px=96,
    large_canvas_px=96,
    pretrained=False,
)


@pytest.fixture(autouse=True)
def quick_intervals(monkeypatch):
    monkeypatch.setattr(metrics, "BOOTSTRAP", 20)


def laboratory(folder, source, cytoplasm_colour_head, n=4):
    """Pictures of a source in its own colours, the last one of split `val`."""
    write_layout(folder, n)
    for i in range(n):
        rgb = np.asarray(Image.open(folder / f"{i}.png")).copy()
        rgb[..., 1] = np.maximum(rgb[..., 1], cytoplasm_colour_head) + i
        Image.fromarray(rgb).save(folder / f"{i}.png")
    with open(folder / "images.csv", "w", newline="") as f:
        rows = [[f"{i}.png", 0.12, source, "val" if i == n - 1 else "train"] for i in range(n)]
        csv.writer(f).writerows([["file", "mpp", "source", "split"], *rows])
    return folder


@pytest.fixture
def two(tmp_path):
    return [laboratory(tmp_path / "a", "here", 10), laboratory(tmp_path / "b", "there", 60)]


def examples_of(folders):
    return [e for folder in folders for e in read_folder(folder)]


def test_a_source_goes_with_its_copies_under_other_names(two):
    (two[0] / "2.png").write_bytes((two[1] / "1.png").read_bytes())  # the same file
    lines = (two[0] / "images.csv").read_text().splitlines()
    told = [
        lines[0] + ",original",
        lines[1] + ",3.png",
        *(line + "," for line in lines[2:]),
    ]  # saved anew, and said so
    (two[0] / "images.csv").write_text("\n".join(told) + "\n")
    kept, left = exclude_sources(examples_of(two), ["there"])
    assert sorted(e.path[-5:] for e in kept) == ["1.png", "3.png"] and {e.source for e in kept} == {
        "here"
    }
    assert left == {"there": {"images": 4, "copies": 2}}
    kept, left = exclude_sources(examples_of(two), ["here"])  # and the other way round
    assert len(kept) == 2 and left == {"here": {"images": 4, "copies": 2}}


def test_copies_of_what_is_measured_are_not_learnt(two, tmp_path, monkeypatch):
    (two[0] / "2.png").write_bytes(
        (two[1] / "3.png").read_bytes()
    )  # the same picture in another source's split train
    with open(two[0] / "images.csv", "a") as images:
        images.write("./3.png,0.12,here,train\n")  # and the same file in both splits
    learnt, lines = [], []

    class Begun(Exception):
        pass

    def begin(examples, *_):
        learnt.extend(examples)
        raise Begun

    monkeypatch.setattr(training_run, "train", begin)
    with pytest.raises(Begun):
        training_run.train_and_save(
            two, tmp_path / "w.safetensors", tmp_path / "work", TINY, "cpu", lines.append
        )
    assert [e.path[-7:] for e in learnt] == ["a/0.png", "a/1.png", "b/0.png", "b/1.png", "b/2.png"]
    assert lines == ["not learnt: 2 images of split train that are copies of images of split val"]
    held_out = [e for e in examples_of(two) if e.split == "val"]
    with pytest.raises(DataError, match="every image of split train is a copy of one of split val"):
        remove_copies([replace(e, split="train") for e in held_out], held_out)


def test_an_unknown_source_and_nothing_left_are_refused(two):
    with pytest.raises(
        DataError,
        match=r"no image is of source 'hre'; there are: here \(4 images\), there \(4 images\)",
    ):
        exclude_sources(examples_of(two), ["hre"])
    with pytest.raises(DataError, match="nothing is left to learn from without here, there"):
        exclude_sources(examples_of(two), ["here", "there"])
    assert exclude_sources(examples_of(two), ()) == (examples_of(two), {})


@pytest.mark.slow
def test_weights_are_measured_on_all_of_a_source_only_where_it_was_left_out(
    two, tmp_path, monkeypatch
):
    learnt, calibrated = [], []
    real = training_run.train, calibrate
    monkeypatch.setattr(
        training_run, "train", lambda examples, *a: learnt.extend(examples) or real[0](examples, *a)
    )
    monkeypatch.setattr(
        training_run,
        "calibrate",
        lambda w, o, held, *a: calibrated.extend(held) or real[1](w, o, held, *a),
    )
    out = tmp_path / "w.safetensors"
    train_command(
        two,
        out,
        tmp_path / "work",
        TINY,
        "cpu",
        lambda _: None,
        training_set=TrainingSet(leave_out=("there",)),
    )
    assert {e.source for e in learnt} == {e.source for e in calibrated} == {"here"}
    card = read_card(out)
    assert (
        trained_sources(card.trained) == {"here": 3}
        and "--leave-out there" in card.trained["command"]
    )
    assert "there (4 images, 0 copies of them elsewhere)" in out.with_suffix(".md").read_text(
        "utf-8"
    )

    def measured(*options):
        return CliRunner().invoke(
            evaluate, [*map(str, two), "--weights", str(out), "--split", "all", *options]
        )

    assert measured("--source", "there").exit_code == 0
    for refused in (["--source", "here"], []):
        error = str(measured(*refused).exception)
        assert str(out) in error and "3 images of here, and the card says `here: 3 images`" in error
    assert "no image is of source 'nowhere'" in str(measured("--source", "nowhere").exception)
    other = tmp_path / "other.safetensors"
    train_command(two[1:], other, tmp_path / "w3", TINY, "cpu", lambda _: None)
    mixed = CliRunner().invoke(
        models, ["average", str(out), str(other), "--out", str(tmp_path / "mean.safetensors")]
    )
    assert f"trained on different sources ({out}: here; {other}: there)" in str(mixed.exception)
    with pytest.raises(DataError, match="the card says `here: 3 images`"):
        train_command(
            two,
            tmp_path / "x.safetensors",
            tmp_path / "w2",
            TINY,
            "cpu",
            start=out,
            training_set=TrainingSet(leave_out=("here",)),
        )


@pytest.mark.slow
def test_all_sources_in_turn_make_one_table_and_are_not_trained_twice(two, tmp_path, monkeypatch):
    monkeypatch.setattr(
        Recipe,
        "__init__",
        lambda self, **given: self.__dict__.update(vars(TINY) | {"steps": given["steps"]}),
    )
    arguments = [*map(str, two), "--out", str(tmp_path / "out"), "--steps", "1"]
    result = CliRunner().invoke(command_line, arguments)
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "out" / "transfer.json").read_text())["sources"]
    assert set(rows) == {"here", "there"} and all(
        r["cells"] == 4 and r["recall"]["n"] == 4 for r in rows.values()
    )
    table = list(csv.DictReader((tmp_path / "out" / "transfer.csv").open()))
    assert (
        [r["source"] for r in table] == ["here", "there"]
        and table[0]["accuracy_n"] == "4"
        and len(table[0]) == len(COLUMNS)
    )
    monkeypatch.setattr(transfer, "train_and_save", None)
    assert CliRunner().invoke(command_line, arguments).exit_code == 0


@pytest.mark.slow
def test_sources_left_out_together_share_a_training_that_saw_neither(two, tmp_path, monkeypatch):
    learnt, asked = [], {}
    real = training_run.train
    monkeypatch.setattr(
        training_run,
        "train",
        lambda examples, *a: learnt.append({e.source for e in examples}) or real(examples, *a),
    )
    monkeypatch.setattr(
        Recipe,
        "__init__",
        lambda self, **given: (
            asked.update(given) or self.__dict__.update(vars(TINY) | {"steps": given["steps"]})
        ),
    )
    folders = [*two, laboratory(tmp_path / "c", "elsewhere", 120)]
    arguments = [
        *map(str, folders),
        "--out",
        str(tmp_path / "out"),
        "--steps",
        "1",
        "--coarse",
        "--stain",
        "0.5",
        "--source",
        "here,elsewhere",
    ]
    result = CliRunner().invoke(command_line, arguments)
    assert result.exit_code == 0 and learnt == [{"there"}], result.output
    assert (asked["mpp"], asked["stain"]) == (0.24, 0.5)
    table = list(csv.DictReader((tmp_path / "out" / "transfer.csv").open()))
    assert [(r["source"], r["left_out"]) for r in table] == [
        ("here", "here elsewhere"),
        ("elsewhere", "here elsewhere"),
    ]
    refused = CliRunner().invoke(command_line, [*arguments[:-1], "here,nowhere"])
    assert "no image is of source 'nowhere'" in str(refused.exception)
    refused = CliRunner().invoke(command_line, [*arguments, "--source", "here"])
    assert refused.exit_code == 2 and "--source here: named more than once" in refused.output


def test_a_row_counts_white_cells_and_tells_apart_what_nobody_taught():
    nan = float("nan")

    def cell(allowed, predicted, iou):
        return EvaluatedCell(
            "s", allowed, bool(predicted), predicted, 0.9, iou, nan, nan, nan, nan, (), "p"
        )

    seen = [
        cell(("blast",), "monocyte", nan),
        cell(("monocyte",), "monocyte", 0.9),
        cell(WHITE_NAMES, "blast", 0.4),
        cell(("monocyte", "lymphocyte"), "", 0.0),
        cell(("platelet",), "platelet", 0.9),
    ]
    row = source_metrics(seen, {"monocyte", "platelet"})
    assert (row["recall"]["value"], row["recall"]["n"]) == (pytest.approx(1 / 3), 3) and row[
        "found"
    ]["n"] == 1
    assert row["accuracy"]["value"] == 0.5 and row["accuracy_taught"]["value"] == pytest.approx(
        2 / 3
    )
    assert row["never_taught"] == ["blast"] and row["majority"] == 0.5
    told = table_rows({"=s": {"images": 5, "left_out": ["=s", "t"], **row}})[0]
    assert len(told) == len(COLUMNS) and told[0] != "=s"
    empty = source_metrics([], set())
    assert empty == {"cells": 0, "never_taught": []} and table_rows(
        {"s": {"images": 0, "left_out": ["s"], **empty}}
    )
