"""What is learnt, and until when: early stopping that resumes alike, a control whose labels mean nothing, N:C by masks."""

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from labelled_images import every_step, write_layout

from hemax_batch.cli import training
from hemax_batch.cli.models import models
from hemax_batch.errors import DataError, WeightsError
from hemax_batch.learning.data import examples
from hemax_batch.learning.data.read_folder import read_folder
from hemax_batch.learning.data.shuffled_labels import shuffle_labels
from hemax_batch.learning.evaluation import metrics
from hemax_batch.learning.evaluation.metrics import (
    EvaluatedCell,
    balanced_accuracy,
    best_threshold,
    is_fitting_half,
    macro_f1,
    nc_metrics,
)
from hemax_batch.learning.training import early_stopping, trainer
from hemax_batch.learning.training.early_stopping import EarlyStopping, holdout_split, score
from hemax_batch.learning.training.learning_curves import draw_curves
from hemax_batch.learning.training.recipe import Recipe
from hemax_batch.learning.training.training_run import TrainingSet, train_command
from hemax_batch.model.checkpoint import SHIPPED, read_card, reject_shuffled_labels
from hemax_batch.pipeline import dry_run, run
from hemax_batch.settings import RunOptions, RunSettings

TINY = Recipe(
    steps=4,
    first_stage=0.0,
    synthetic=0,
    batch=2,
    warmup=1,
    canvas_px=96,
    large_canvas_px=96,
    pretrained=False,
)
NAN = float("nan")


@pytest.fixture(autouse=True)
def quick_intervals(monkeypatch):
    monkeypatch.setattr(metrics, "BOOTSTRAP", 20)


# --- early stopping ---------------------------------------------------------------------------------------------


def test_the_best_weights_are_kept_and_patience_ends_it():
    early = EarlyStopping([], patience=2, every=1)
    weights = {"w": torch.zeros(1)}
    for step, value in enumerate(
        (0.0, 0.0, 0.0, 0.0, 0.5, 0.7, 0.7, 0.6), 1
    ):  # at first nothing is found
        assert not early.should_stop
        weights["w"].fill_(step)
        early.check(step, value, weights)
    assert (
        early.should_stop
        and early.best_step == 6
        and early.best == 0.7
        and float(early.weights["w"]) == 6
    )


def test_one_in_sixteen_is_held_back_whatever_the_folder_and_too_few_are_refused(tmp_path):
    changed = [
        examples.Example(
            f"{tmp_path}/{i}.png", 0.1, "s", "train", (examples.CellLabel(None, ("blast",)),)
        )
        for i in range(800)
    ]
    learnt, checked = holdout_split(changed)
    assert 25 < len(checked) < 80 and len(learnt) + len(checked) == 800
    elsewhere = holdout_split(
        [
            examples.Example(e.path.replace(str(tmp_path), "/x"), 0.1, "s", "train", e.cells)
            for e in changed
        ]
    )[1]
    assert [Path(e.path).name for e in elsewhere] == [Path(e.path).name for e in checked]
    with pytest.raises(DataError, match="too few to keep one in 16"):
        holdout_split(changed[:1])


def test_the_score_weighs_right_classes_by_their_overlap():
    def cell(said, iou):
        return EvaluatedCell(
            "s", ("blast",), bool(said), said, 0.9, iou, NAN, NAN, NAN, NAN, (), "p"
        )

    assert score(
        [cell("blast", 0.8), cell("blast", NAN), cell("monocyte", 0.9), cell("", 0.0)]
    ) == pytest.approx(0.45)


@pytest.mark.slow
def test_a_training_killed_between_checks_stops_where_the_uninterrupted_one_did(
    tmp_path, monkeypatch
):
    changed = read_folder(write_layout(tmp_path / "data", 5))
    told = iter([0.2, 0.4, 0.3, 0.1, 0.9] + [0.3, 0.1, 0.9])
    asked = []

    def said(_network, average, checked, mpp, patch_px):
        asked.append(len(checked))
        return next(told)

    monkeypatch.setattr(trainer, "score_weights", said)
    recipe = Recipe(**{**vars(TINY), "steps": 7})
    monkeypatch.setattr(trainer.Trainer, "run_steps", every_step(trainer.Trainer.run_steps))
    whole = trainer.train(
        changed[:4],
        recipe,
        tmp_path / "whole",
        echo=lambda _: None,
        early=EarlyStopping(changed[4:], 2, 1),
    )
    assert asked == [1, 1, 1, 1]  # best at 2, over at 4
    rows = list(csv.DictReader((tmp_path / "whole" / "log.csv").open()))
    assert [(r["step"], r["check"], r["best_step"]) for r in rows] == [
        ("1", "0.2", "1"),
        ("2", "0.4", "2"),
        ("3", "0.3", "2"),
        ("4", "0.1", "2"),
    ]
    assert draw_curves(tmp_path / "whole" / "log.csv", tmp_path / "curves.svg")
    told = iter([0.2, 0.4, 0.3, 0.1])
    learn = trainer.Trainer._training_step

    class Killed(Exception):
        pass

    def die(self, pixels, targets):
        if self.step == 3:
            raise Killed
        return learn(self, pixels, targets)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_training_step", die)
        with pytest.raises(Killed):
            trainer.train(
                changed[:4],
                recipe,
                tmp_path / "killed",
                echo=lambda _: None,
                early=EarlyStopping(changed[4:], 2, 1),
            )
    lines = []
    again = trainer.train(
        changed[:4],
        recipe,
        tmp_path / "killed",
        echo=lines.append,
        early=EarlyStopping(changed[4:], 2, 1),
    )
    one, other = whole.state_dict(), again.state_dict()
    assert all(torch.equal(one[k], other[k]) for k in one)
    assert (
        lines[0] == "resumed at step 3" and lines[-1] == "stopped at step 4; kept: step 2 (0.4000)"
    )
    with pytest.raises(DataError, match=r"another recipe .*patience=2"):
        trainer.train(
            changed[:4], recipe, tmp_path / "killed", early=EarlyStopping(changed[4:], 3, 1)
        )


@pytest.mark.slow
def test_the_command_checks_on_images_that_it_does_not_learn(tmp_path, monkeypatch):
    monkeypatch.setattr(early_stopping, "_HOLDOUT_ONE_IN", 3)
    data, out = write_layout(tmp_path / "data", 6), tmp_path / "w.safetensors"
    train_command(
        [data],
        out,
        tmp_path / "work",
        TINY,
        "cpu",
        lambda _: None,
        training_set=TrainingSet(patience=9, check_every=4),
    )
    trained = read_card(out).trained
    early = trained["early_stopping"]
    assert (
        early["checked_on"] + trained["images"]["s"] == 6
        and early["best_step"] == 4
        and not early["stopped"]
    )
    assert (
        "--patience 9 --check-every 4" in trained["command"]
        and f"--stain {TINY.stain:g}" in trained["command"]
    )
    assert "Commands without `--stain`" not in out.with_suffix(".md").read_text("utf-8")
    assert "Commands without `--stain`" in SHIPPED.with_suffix(".md").read_text(
        "utf-8"
    )  # its first stages
    assert "Kept out to check on, every 4 steps" in out.with_suffix(".md").read_text("utf-8")


# --- the control ------------------------------------------------------------------------------------------------


def test_shuffled_labels_are_those_of_the_source_and_boxes_stay(tmp_path):
    here = read_folder(write_layout(tmp_path / "a", 9))
    there = [
        replace(e, source="t") for e in read_folder(write_layout(tmp_path / "b", 9, granularity=""))
    ]
    shuffled = shuffle_labels(here + there, seed=1)
    assert shuffled == shuffle_labels(here + there, seed=1) != shuffle_labels(here + there, seed=2)
    for before, after in ((here, shuffled[:9]), (there, shuffled[9:])):
        for name in ("allowed", "attributes"):
            assert Counter(getattr(e.cells[0], name) for e in before) == Counter(
                getattr(e.cells[0], name) for e in after
            )
        assert [e.cells[0].allowed for e in before] != [e.cells[0].allowed for e in after]
        assert [(e.path, e.mask_path, e.cells[0].box_xyxy) for e in before] == [
            (e.path, e.mask_path, e.cells[0].box_xyxy) for e in after
        ]
    assert shuffled[9].cells[0].attributes == ()  # nobody described it, so nobody does now


@pytest.mark.slow
def test_a_control_says_so_and_is_neither_run_nor_imported_nor_averaged(tmp_path):
    data, out = write_layout(tmp_path / "data", 4), tmp_path / "w.safetensors"
    recipe = Recipe(**{**vars(TINY), "steps": 1, "synthetic": 3})
    train_command(
        [data],
        out,
        tmp_path / "work",
        recipe,
        "cpu",
        lambda _: None,
        training_set=TrainingSet(shuffle_labels=True),
    )
    card = read_card(out)
    assert card.trained["labels_shuffled"] and card.trained["images"]["synthetic"] == 0
    assert "A control, not for use" in out.with_suffix(".md").read_text("utf-8")
    settings, options = RunSettings(), RunOptions(weights=str(out))
    for refused in (run, lambda *a: dry_run(*a, print)):
        with pytest.raises(
            WeightsError, match="w.safetensors: its card says that labels were shuffled"
        ):
            refused([str(tmp_path)], tmp_path / "results", settings, options)
    assert not (tmp_path / "results").exists()
    for arguments in (
        ["import", str(out), "--to", str(tmp_path / "kept")],
        ["average", str(out), "--out", str(tmp_path / "m")],
    ):
        assert "labels were shuffled" in str(CliRunner().invoke(models, arguments).exception)
    assert not (tmp_path / "kept").exists() and not (tmp_path / "m").exists()
    train_command(
        [data],
        tmp_path / "next.safetensors",
        tmp_path / "work2",
        recipe,
        "cpu",
        lambda _: None,
        start=out,
    )
    with pytest.raises(WeightsError, match="labels were shuffled"):
        reject_shuffled_labels(read_card(tmp_path / "next.safetensors"))


def test_a_control_has_no_teacher(tmp_path):
    given = [
        str(tmp_path),
        "--out",
        str(tmp_path / "w.safetensors"),
        "--shuffle-labels",
        "--teacher",
        str(SHIPPED),
    ]
    refused = CliRunner().invoke(training.train, given)
    assert (
        refused.exit_code == 2
        and "--shuffle-labels cannot be combined with --teacher" in refused.output
    )


# --- figures ----------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-1, 5)), min_size=1, max_size=30))
def test_balanced_accuracy_and_f1_are_those_of_scikit_learn(rows):
    from sklearn.metrics import f1_score, recall_score

    pairs = np.array(rows)
    present = sorted(set(pairs[:, 0]))
    truth, said, kinds = (
        pairs[:, 0],
        pairs[:, 1],
        {"labels": present, "average": "macro", "zero_division": 0},
    )
    assert balanced_accuracy(pairs) == pytest.approx(recall_score(truth, said, **kinds))
    assert macro_f1(pairs, present) == pytest.approx(f1_score(truth, said, **kinds))
    assert macro_f1(pairs, [*present, 7]) == pytest.approx(
        macro_f1(pairs, present) * len(present) / (len(present) + 1)
    )


# --- nuclear:cytoplasmic ratio ----------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=1, max_size=14))
def test_the_threshold_gives_as_many_right_answers_as_any(cells):
    values, high = [v / 12 for v, _ in cells], [h for _, h in cells]

    def right(threshold):
        return sum((v > threshold) == h for v, h in zip(values, high, strict=True))

    assert right(best_threshold(values, high)) == max(right(t) for t in (-1.0, *values))


def judged(n=200, missed=0):
    rng, out = np.random.default_rng(0), []
    for i in range(n):
        fraction = float(rng.uniform(0.3, 0.9))
        out.append(
            EvaluatedCell(
                "s",
                ("monocyte",),
                True,
                "monocyte",
                0.9,
                0.9,
                NAN,
                NAN,
                NAN,
                fraction,
                (),
                f"{i}.png",
                nc_class="high" if fraction > 0.7 else "low",
            )
        )
    for i in range(missed):
        out.append(
            EvaluatedCell(
                "s",
                ("monocyte",),
                False,
                "",
                0.0,
                0.0,
                NAN,
                NAN,
                NAN,
                NAN,
                (),
                f"m{i}.png",
                nc_class="low",
            )
        )
    return out


def test_the_ratio_is_measured_on_the_half_that_it_was_not_fitted_on():
    told = nc_metrics(judged())
    assert told["high above nucleus/cell of"] == pytest.approx(0.7, abs=0.02)
    assert (
        told["accuracy"]["n"] == sum(not is_fitting_half(s.path) for s in judged())
        and told["accuracy"]["value"] > 0.97
    )
    assert told["two people agree"] == 0.976 and 0.6 < told["majority baseline"] < 0.75
    worse = nc_metrics(judged(missed=40))["accuracy"]
    assert worse["value"] < told["accuracy"]["value"] and worse["n"] > told["accuracy"]["n"]
    assert metrics.compute_metrics(judged())["attributes"]["nuclear_cytoplasmic_ratio"] == told
    assert nc_metrics([s for s in judged() if is_fitting_half(s.path)]) == {} == nc_metrics([])


def test_basophils_whose_granules_hide_the_nucleus_are_told_apart():
    basophils = [
        replace(s, allowed=("basophil",), fraction=0.75, nc_class="low", path=f"b{s.path}")
        for s in judged(100)
    ]
    told = nc_metrics(judged() + basophils)
    assert told["basophils apart"] == {
        k: v for k, v in nc_metrics(judged()).items() if k != "basophils apart"
    }
    assert told["accuracy"]["value"] < told["basophils apart"]["accuracy"]["value"]
    assert "basophils apart" not in nc_metrics(basophils)


def test_the_ratio_is_read_and_an_unknown_one_refused(tmp_path):
    folder = write_layout(tmp_path / "d")
    text = (folder / "cells.csv").read_text().splitlines()
    (folder / "cells.csv").write_text(
        "\n".join(
            [
                text[0] + ",nuclear_cytoplasmic_ratio",
                text[1] + ",high",
                *(t + "," for t in text[2:]),
            ]
        )
    )
    assert [e.cells[0].nc_class for e in read_folder(folder)] == ["high", "", "", ""]
    (folder / "cells.csv").write_text((folder / "cells.csv").read_text().replace(",high", ",0.8"))
    with pytest.raises(
        DataError, match=r"row 2: nuclear_cytoplasmic_ratio '0.8'; known: low, high"
    ):
        read_folder(folder)
