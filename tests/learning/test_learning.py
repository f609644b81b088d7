"""Datasets, augmentation and training: malformed data named by row, boxes that stay tight, a resumed training that
ends the same."""

import csv
import json
import os
import socket
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from labelled_images import every_step, write_layout
from made_cells import cells_at
from PIL import Image

from hemax_batch.cli.app import main
from hemax_batch.errors import DataError
from hemax_batch.learning.data import examples
from hemax_batch.learning.data.read_folder import read_folder
from hemax_batch.learning.evaluation import evaluate
from hemax_batch.learning.evaluation import model_card as card_module
from hemax_batch.learning.evaluation.average_precision import average_precision
from hemax_batch.learning.evaluation.metrics import EvaluatedCell, compute_metrics, is_fitting_half
from hemax_batch.learning.training import pseudo_labels
from hemax_batch.learning.training import trainer as train_module
from hemax_batch.learning.training.pseudo_labels import apply_pseudo_labels, write_pseudo_types
from hemax_batch.learning.training.recipe import Recipe
from hemax_batch.learning.training.trainer import train
from hemax_batch.learning.training.training_run import TrainingSet, train_and_save, train_command
from hemax_batch.model import checkpoint
from hemax_batch.model.checkpoint import SHIPPED, read_card
from hemax_batch.model.network_output import NetworkOutput
from hemax_batch.records import Cells, PatchBatch
from hemax_batch.vocabulary import CLASS_NAMES, WHITE_NAMES


def test_the_documented_layout_is_read(tmp_path):
    write_layout(tmp_path, **{"class": "band_neutrophil|segmented_neutrophil", "granularity": ""})
    first, second, *_ = read_folder(tmp_path)
    assert (
        first.cells[0].allowed == ("band_neutrophil", "segmented_neutrophil")
        and first.cells[0].attributes == ()
    )
    assert second.cells[0].attributes == (("granularity", "fine"),) and second.mask_path.endswith(
        "1_mask.png"
    )


def test_an_empty_class_means_some_white_cell_and_an_empty_box_only_a_centre(tmp_path):
    write_layout(tmp_path, **{"class": "", "x0": "", "mask": ""})
    cell = read_folder(tmp_path)[0].cells[0]
    assert cell.allowed == WHITE_NAMES and cell.box_xyxy is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"class": "neutrofil"}, "cells.csv row 2: unknown class 'neutrofil'"),
        ({"x1": 130}, "cells.csv row 2: box .* does not lie in the image of 100 x 100 px"),
        ({"x1": 10}, "cells.csv row 2: box"),
        ({"mask": "none.png"}, "cells.csv row 2: mask 'none.png' does not exist"),
        ({"file": "none.png"}, "cells.csv row 2: image 'none.png' is not in images.csv"),
        ({"granularity": "grainy"}, "cells.csv row 2: granularity 'grainy'; known: agranular"),
    ],
)
def test_malformed_rows_are_refused_by_name(tmp_path, changed, message):
    with pytest.raises(DataError, match=message):
        read_folder(write_layout(tmp_path, **changed))


def test_a_mask_of_another_size_and_a_missing_image_are_refused(tmp_path):
    write_layout(tmp_path)
    Image.new("L", (50, 100)).save(tmp_path / "0_mask.png")
    with pytest.raises(
        DataError, match=r"row 2: mask is \(50, 100\) px, its image \(100, 100\) px"
    ):
        read_folder(tmp_path)
    (tmp_path / "1.png").unlink()
    with pytest.raises(DataError, match="images.csv row 3: image '1.png' does not exist"):
        read_folder(tmp_path)
    with pytest.raises(DataError, match="neither images.csv"):
        read_folder(tmp_path / "..")


def test_a_mask_of_other_values_or_of_colours_is_refused(tmp_path):
    write_layout(tmp_path, 2)
    Image.fromarray(np.array(Image.open(tmp_path / "1_mask.png")) * 127).save(
        tmp_path / "1_mask.png"
    )
    with pytest.raises(
        DataError, match=r"cells.csv row 3: mask has values 0, 127, 254; expected 0 \(outside\)"
    ):
        read_folder(tmp_path)
    Image.new("RGB", (100, 100)).save(tmp_path / "0_mask.png")
    with pytest.raises(DataError, match="cells.csv row 2: mask has 3 channels; expected one"):
        read_folder(tmp_path)


@pytest.mark.parametrize("mpp", ["0", "-0.1", "nan", "inf", "", "0,12"])
def test_a_scale_that_is_no_number_above_0_is_refused(tmp_path, mpp):
    with open(write_layout(tmp_path, 1) / "images.csv", "w", newline="") as f:
        csv.writer(f).writerows([["file", "mpp"], ["0.png", mpp]])
    with pytest.raises(
        DataError, match=f"images.csv row 2: mpp is '{mpp}'; expected µm/px, a number above 0"
    ):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("first", "second"), [("0_mask.png", "1_mask.png"), ("0_mask.png", ""), ("", "0_mask.png")]
)
def test_an_image_has_one_mask_for_all_its_cells(tmp_path, first, second):
    with open(write_layout(tmp_path) / "cells.csv", newline="") as f:
        row, *_ = csv.DictReader(f)

    def read(*masks):
        with open(tmp_path / "cells.csv", "w", newline="") as f:
            writer = csv.DictWriter(f, row)
            writer.writeheader()
            writer.writerows([{**row, "mask": mask} for mask in masks])
        return read_folder(tmp_path)[0]

    assert len(read(first, first).cells) == 2
    with pytest.raises(
        DataError, match=f"cells.csv row 3: mask '{second}', but rows above say '{first}'"
    ):
        read(first, second)


def test_fields_of_red_cells_only_teach_that_nothing_is_there(tmp_path):
    (tmp_path / "chula" / "images").mkdir(parents=True)
    for i in range(6):
        Image.new("RGB", (40, 30), (200, 180, 190)).save(tmp_path / "chula" / "images" / f"{i}.png")
    examples = read_folder(tmp_path)
    assert [e.split for e in examples] == ["val", "train", "train", "train", "train", "val"]
    assert {(e.source, e.mpp, e.cells, e.bystanders) for e in examples} == {
        ("chula", 0.20, (), "none")
    }


def test_pseudo_masks_bring_boxes_only_where_nobody_drew_one(tmp_path):
    examples = read_folder(write_layout(tmp_path / "data", **{"x0": ""}))
    (tmp_path / "pseudo").mkdir()
    for i in (0, 1):
        mask = np.zeros((100, 100), np.uint8)
        mask[30:60, 40:80] = 1
        Image.fromarray(mask).save(tmp_path / "pseudo" / f"{i}.png")
    drawn, boxed, *_ = apply_pseudo_labels(examples, tmp_path / "pseudo")
    assert drawn.cells[0].box_xyxy == (40, 30, 80, 60) and not drawn.cells[0].box_trusted
    assert (
        boxed.cells[0].box_xyxy == (20, 20, 80, 80)
        and boxed.cells[0].box_trusted
        and boxed.mask_weight < 1
    )


def test_a_pseudo_mask_of_another_ratio_than_people_judged_is_not_kept(tmp_path):
    example = read_folder(write_layout(tmp_path / "data", nuclear_cytoplasmic_ratio="low"))[0]
    assert example.cells[0].box_xyxy == (20, 20, 80, 80) and example.cells[0].nc_class == "low"
    mask = np.zeros((100, 100), np.uint8)
    mask[20:80, 20:80] = 1
    for rows, kept in ((30, True), (48, False)):
        mask[20 : 20 + rows, 20:80] = 2
        assert pseudo_labels._acceptable(mask, example) is kept
        unjudged = replace(example, cells=(replace(example.cells[0], nc_class=""),))
        assert pseudo_labels._acceptable(mask, unjudged)


def test_a_teacher_names_types_that_labels_leave_open_where_it_is_sure(tmp_path):
    examples = read_folder(write_layout(tmp_path, 4, **{"class": ""}))
    open_label, *typed = examples
    assert open_label.cells[0].allowed == WHITE_NAMES

    def says(**probabilities):
        p = np.full((1, 2, len(CLASS_NAMES) + 1), 1e-4, np.float32)
        p[0, 1, -1] = 1  # the second query saw nothing
        for name, value in probabilities.items():
            p[0, 0, CLASS_NAMES.index(name)] = value
        boxes = np.array([[[160, 160, 90, 90], [20, 20, 50, 50]]], np.float32)
        nothing = np.zeros(0, np.float32)
        return lambda pixels: NetworkOutput(
            np.log(p), nothing, boxes, np.array([[True, False]]), nothing, nothing
        )

    def types(network):
        write_pseudo_types(network, examples, [0, 1, 2, 3], tmp_path / "p", 0.12, 320)
        labelled = apply_pseudo_labels(examples, tmp_path / "p")
        assert [e.cells for e in labelled[1:]] == [e.cells for e in typed]
        return labelled[0].cells[0].allowed

    assert types(says(monocyte=0.9)) == ("monocyte",)
    assert types(says(monocyte=0.5, lymphocyte=0.45)) == WHITE_NAMES
    assert types(says(band_neutrophil=0.5, segmented_neutrophil=0.45)) == (
        "band_neutrophil",
        "segmented_neutrophil",
    )
    assert types(says(platelet=0.99, monocyte=0.009)) == ("monocyte",)  # of what the label allows


@pytest.mark.slow
def test_a_training_with_a_teacher_takes_its_masks_and_knows_whose_they_are(tmp_path):
    data = write_layout(tmp_path / "data", 4, mask="", **{"class": ""})
    recipe = Recipe(
        steps=1, synthetic=0, batch=2, canvas_px=96, large_canvas_px=96, pretrained=False
    )
    out = tmp_path / "w.safetensors"
    train_and_save([data], out, tmp_path / "work", recipe, "cpu", lambda _: None, teacher=SHIPPED)
    trained = read_card(out).trained
    assert (
        trained["recipe"]["teacher"] == read_card().sha256
        and "--teacher hemax-s.safetensors" in trained["command"]
    )
    assert (tmp_path / "work" / "pseudo" / "types.csv").exists()
    without = {"recipe": {}, "before": None}
    assert "In the last stage these masks" in card_module._teacher(trained)
    assert "In an earlier stage these masks" in card_module._teacher(
        without | {"before": trained}
    ) and not card_module._teacher(without)


@pytest.mark.slow
def test_a_training_killed_half_way_ends_with_the_same_weights(tmp_path):
    examples = read_folder(write_layout(tmp_path / "data"))
    recipe = Recipe(
        steps=4,
        first_stage=0.0,
        synthetic=0,
        batch=2,
        warmup=1,
        canvas_px=96,
        large_canvas_px=96,
        pretrained=False,
        drop_path=0.5,
    )
    whole = train(examples, recipe, tmp_path / "whole", echo=lambda _: None).state_dict()

    class Killed(Exception):
        pass

    def die(self, losses, seconds):
        if self.step == 2:
            self._save()
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_module.Trainer, "_log", die)
        patch.setattr(train_module.Trainer, "run_steps", every_step(train_module.Trainer.run_steps))
        with pytest.raises(Killed):
            train(examples, recipe, tmp_path / "killed", echo=lambda _: None)
    again = train(examples, recipe, tmp_path / "killed", echo=lambda _: None).state_dict()
    assert all(torch.equal(whole[k], again[k]) for k in whole)
    with pytest.raises(DataError, match="another recipe"):
        train(examples, replace(recipe, steps=5), tmp_path / "killed", echo=lambda _: None)


ONE_OF_TWO = """
import copy
import sys
from pathlib import Path
import torch
from hemax_batch.learning.data.read_folder import read_folder
from hemax_batch.learning.training import trainer
from hemax_batch.learning.training.recipe import Recipe
data, out, rank = sys.argv[1:]
ends = []
trainer.Trainer.averaged = lambda run: ends.append(copy.deepcopy({"model": run.model.state_dict(), "average": run.average})) or run.model.eval()
trainer.train(read_folder(Path(data)), Recipe(steps=2, first_stage=0.0, synthetic=0, batch=2, canvas_px=64,
            large_canvas_px=64, warmup=1, pretrained=False), Path(out), echo=lambda _: None)
torch.save(ends[0], Path(out) / f"{rank}.pt")
"""


@pytest.mark.slow
def test_processes_that_train_together_end_with_the_same_network(tmp_path):
    data, out = write_layout(tmp_path / "data"), tmp_path / "work"
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    env = {
        **os.environ,
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    both = [
        subprocess.Popen(
            [sys.executable, "-c", ONE_OF_TWO, data, out, rank], env={**env, "RANK": rank}
        )
        for rank in "01"
    ]
    assert [process.wait(120) for process in both] == [0, 0]
    one, other = (torch.load(out / f"{rank}.pt", weights_only=True) for rank in "01")
    kept = torch.load(out / "state.pt", weights_only=True)
    for part in ("model", "average"):
        for k, v in one[part].items():
            assert torch.equal(v, other[part][k]) and torch.equal(v, kept[part][k]), (part, k)


@pytest.mark.slow
def test_a_work_folder_is_of_its_examples_from_the_first_step_on(tmp_path, monkeypatch):
    here, other = (read_folder(write_layout(tmp_path / name, 3, mask="")) for name in "ab")
    recipe = Recipe(
        steps=1,
        first_stage=0.0,
        synthetic=0,
        batch=2,
        canvas_px=96,
        large_canvas_px=96,
        pretrained=False,
    )
    learnt, early = TrainingSet(shuffle_labels=True).select(here, recipe.seed)
    assert learnt != here and not early

    def draw(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(train_module, "write_pseudo_masks", draw)
    with pytest.raises(KeyboardInterrupt):
        train(here, recipe, tmp_path / "work", echo=lambda _: None, teacher=SHIPPED)
    for others in (other, here[:2], here[::-1], learnt):
        with pytest.raises(DataError, match="or of other examples .*the same options and data"):
            train(others, recipe, tmp_path / "work", teacher=SHIPPED)
    monkeypatch.setattr(train_module, "write_pseudo_masks", lambda *_: None)
    train(here, recipe, tmp_path / "work", echo=lambda _: None, teacher=SHIPPED)
    (tmp_path / "work" / "state.pt").unlink()
    with pytest.raises(DataError, match="pseudo has the masks of another training"):
        train(other, recipe, tmp_path / "work", teacher=SHIPPED)


@pytest.mark.slow
def test_the_command_ends_with_weights_their_figures_and_a_card(tmp_path):
    data = write_layout(tmp_path / "data")
    images = (data / "images.csv").read_text().splitlines()
    (data / "images.csv").write_text(
        "\n".join([*images[:-1], images[-1].replace("train", "val")]) + "\n"
    )
    recipe = Recipe(
        steps=1,
        first_stage=0.0,
        synthetic=0,
        batch=2,
        canvas_px=96,
        large_canvas_px=96,
        pretrained=False,
    )
    out = tmp_path / "not yet there" / "w.safetensors"
    train_command([data], out, tmp_path / "work", recipe, "cpu", echo=lambda _: None)
    card = read_card(out)
    assert (
        card.trained["steps"] == 1
        and card.trained["images"]["s"] == 3
        and card.metrics["all"]["cells"] == 1
    )
    text = out.with_suffix(".md").read_text()
    assert card.sha256 in text and "hemax-batch train" in text and "white cells found" in text
    assert Recipe.fine_tuning(out).start == card.sha256
    larger = Recipe.fine_tuning(
        out,
        arch="hemax-m",
        steps=1,
        synthetic=0,
        batch=2,
        canvas_px=96,
        large_canvas_px=96,
        pretrained=False,
    )
    assert (Recipe.fine_tuning(out).freeze_norm, larger.freeze_norm) == (0.0, Recipe.freeze_norm)
    train_command(
        [data],
        tmp_path / "m.safetensors",
        tmp_path / "work of m",
        larger,
        "cpu",
        echo=lambda _: None,
        start=out,
    )
    went_on = read_card(tmp_path / "m.safetensors")
    assert (
        went_on.arch == "hemax-m"
        and "--arch hemax-m" in went_on.trained["command"]
        and "--from-weights w.safetensors" in went_on.trained["command"]
    )
    assert went_on.trained["before"]["recipe"]["arch"] == "hemax-s"


@pytest.mark.slow
def test_no_steps_fit_cytoplasm_colour_and_nothing_else(tmp_path):
    data, start, out = (
        write_layout(tmp_path / "data"),
        tmp_path / "s.safetensors",
        tmp_path / "w.safetensors",
    )
    tiny = {"batch": 2, "canvas_px": 96, "large_canvas_px": 96, "pretrained": False}
    train_and_save(
        [data],
        start,
        tmp_path / "work",
        Recipe(steps=1, first_stage=0.0, synthetic=0, **tiny),
        "cpu",
        lambda _: None,
    )
    train_and_save(
        [data],
        out,
        tmp_path / "none",
        Recipe.fine_tuning(start, steps=0, **tiny),
        "cpu",
        lambda _: None,
        start,
    )
    (before, card), (after, now) = checkpoint.load(start), checkpoint.load(out)
    assert now.trained["steps"] == 0 and now.trained["images"] == card.trained["images"]
    for name, tensor in after.state_dict().items():
        assert name.startswith("tint.") or torch.equal(tensor, before.state_dict()[name]), name
    assert (
        not (tmp_path / "none" / "pseudo").exists()
        and not (tmp_path / "none" / "synthetic").exists()
    )
    card_module.write_card(now, out.with_suffix(".md"))
    assert "Cytoplasm colour is read from the colours" in out.with_suffix(".md").read_text("utf-8")
    for without_start in (
        ["--steps", "0"],
        ["--steps", "0", "--from-weights", str(start), "--arch", "hemax-m"],
    ):
        asked = CliRunner().invoke(
            main, ["train", str(data), "--out", str(tmp_path / "x.safetensors"), *without_start]
        )
        assert asked.exit_code == 2 and "Give --from-weights" in " ".join(
            asked.output.replace("│", " ").split()
        )


def test_a_cell_that_is_not_found_counts_as_wrong():
    nan = float("nan")
    seen = [
        EvaluatedCell("s", ("blast",), True, "blast", 0.9, 0.9, nan, nan, nan, nan, (), "a")
    ] * 3
    seen += [EvaluatedCell("s", ("blast",), False, "", 0.0, 0.0, nan, nan, nan, nan, (), "b")]
    found = compute_metrics(seen)
    assert found["classes"]["accuracy"]["value"] == 0.75 and found["recall"]["value"] == 0.75
    assert found["jaccard"]["value"] == pytest.approx(0.675)
    assert found["classes"]["confusion"] == {"blast": {"blast": 3, "not found": 1}}


@pytest.mark.slow
def test_what_is_not_found_has_no_right_attribute_and_no_mask_and_review_does_not_see_it():
    nan, paths = float("nan"), [f"{i}.png" for i in range(40) if not is_fitting_half(f"{i}.png")]
    seen = [
        EvaluatedCell(
            "s",
            ("blast",),
            True,
            "blast",
            0.9,
            0.9,
            0.9,
            0.9,
            0.5,
            0.5,
            (("granularity", "agranular", "agranular"),),
            paths[0],
        ),
        EvaluatedCell(
            "s", ("blast",), True, "monocyte", 0.95, 0.9, 0.8, 0.9, 0.95, 0.9, (), paths[1]
        ),
        *(
            EvaluatedCell(
                "s",
                ("blast",),
                False,
                "",
                0.0,
                0.0,
                0.0,
                0.0,
                nan,
                nan,
                (("granularity", "agranular", ""),),
                p,
            )
            for p in paths[2:4]
        ),
    ]
    found = compute_metrics(seen, 0.5)
    assert (
        found["attributes"]["granularity"]["accuracy"]["value"],
        found["attributes"]["granularity"]["accuracy"]["n"],
    ) == (1 / 3, 3)
    assert (
        found["masks"]["nucleus dice"]["value"] == pytest.approx(1.7 / 4)
        and found["masks"]["nucleus/cell nmse"]["n"] == 2
    )
    sure = found["confidence (other half than fitted on)"]
    assert (
        sure["asked to review"]["value"] == 0 and sure["errors that review catches"]["value"] == 0
    )
    assert sure["ece"]["n"] == 2
    thin = compute_metrics(seen[1:2])["masks"]
    assert (
        not any("rim" in name for name in thin)
        and json.loads(json.dumps(thin, allow_nan=False)) == thin
    )
    assert set(compute_metrics(seen[2:])["masks"]) == {
        "nucleus dice",
        "cell dice",
        "nucleus iou",
        "cell iou",
    }


def test_average_precision_is_of_white_cells_among_others():
    """A nucleated red cell that is called so is no miss; what may be one or the other is left out."""
    cells = Cells.concat(
        [
            cells_at([(100, 100)], 100, "lymphocyte"),
            cells_at([(300, 100)], 100, "erythroblast"),
            cells_at([(500, 100)], 100, "monocyte"),
        ]
    )
    labels = [
        examples.CellLabel(tuple(map(float, box)), names)
        for names, box in zip(
            (("lymphocyte",), ("erythroblast",), ("monocyte", "erythroblast")),
            cells.boxes_xyxy.tolist(),
            strict=True,
        )
    ]
    example = examples.Example("a.png", 0.1, "s", "val", tuple(labels))
    patch = PatchBatch(np.zeros((1, 3, 640, 640), np.uint8), np.zeros((1, 2)), 1.0)
    field = evaluate._field(example, cells, patch, 640)
    assert len(field.truth) == len(field.boxes) == 1
    assert average_precision([field])["AP"] == pytest.approx(1)
