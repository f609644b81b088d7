"""Confidence: what is fitted on one half of the images, and what it does to the other."""

import numpy as np
import pytest
from click.testing import CliRunner
from labelled_images import write_layout
from PIL import Image

from hemax_batch.cli.app import main
from hemax_batch.learning.evaluation.average_precision import LocalisationField, average_precision
from hemax_batch.learning.evaluation.calibration import (
    apply_temperature,
    choose_threshold,
    fit_temperature,
)
from hemax_batch.learning.evaluation.evaluate import build_report
from hemax_batch.learning.evaluation.evaluation_page import write_evaluation_page
from hemax_batch.learning.evaluation.metrics import (
    EvaluatedCell,
    compute_metrics,
    expected_calibration_error,
    is_fitting_half,
    reliability_bins,
)
from hemax_batch.model.checkpoint import read_card
from hemax_batch.vocabulary import CLAIM, CLASS_NAMES, N_CLASSES


def made_up(n=3000, spread=2.0, too_sure=1.0, seed=0):
    """Cells whose labels are drawn from the very probabilities that are stated, once those are made too sure."""
    rng = np.random.default_rng(seed)
    nan, out = float("nan"), []
    for i in range(n):
        logits = rng.normal(0, spread, N_CLASSES)
        true = np.exp(logits) / np.exp(logits).sum()
        label = CLASS_NAMES[rng.choice(N_CLASSES, p=true)]
        said = np.exp(logits * too_sure) / np.exp(logits * too_sure).sum()
        best = int(said.argmax())
        out.append(
            EvaluatedCell(
                "s",
                (label,),
                True,
                CLASS_NAMES[best],
                float(said[best]),
                nan,
                nan,
                nan,
                nan,
                nan,
                (),
                f"{i}.png",
                False,
                tuple(said.tolist()),
            )
        )
    return out


@pytest.mark.parametrize("too_sure", [0.6, 1.0, 1.8])
def test_the_temperature_that_was_put_in_is_found(too_sure):
    seen = made_up(too_sure=too_sure)
    temperature = fit_temperature(seen)
    assert temperature == pytest.approx(too_sure, rel=0.08)
    calibrated = apply_temperature(seen, temperature)
    assert [s.predicted for s in calibrated] == [s.predicted for s in seen]
    held_out = np.array(
        [
            (s.confidence, s.predicted in s.allowed)
            for s in calibrated
            if not is_fitting_half(s.path)
        ],
        float,
    )
    assert expected_calibration_error(held_out) < 0.04


def test_what_is_measured_was_not_fitted_on():
    seen = made_up(400)
    both = sum(is_fitting_half(s.path) for s in seen)
    assert 150 < both < 250
    told = compute_metrics(seen, 0.5)["confidence (other half than fitted on)"]
    assert told["ece"]["n"] == 400 - both


def test_the_threshold_reaches_its_accuracy_or_keeps_nine_in_ten():
    easy, hard = made_up(spread=5.0), made_up(spread=1.0)
    for seen in (easy, hard):
        threshold = choose_threshold(seen)
        mine = np.array(
            [(s.confidence, s.predicted in s.allowed) for s in seen if is_fitting_half(s.path)],
            float,
        )
        kept = mine[mine[:, 0] >= threshold]
        assert len(kept) >= 0.9 * len(mine)
    assert choose_threshold([]) == 0.5


def test_bins_hold_every_cell_and_a_perfect_forecast_has_no_error():
    pairs = np.array([(1.0, 1.0)] * 5 + [(0.0, 0.0)] * 5)
    assert (
        sum(n for _, _, n in reliability_bins(pairs)) == 10
        and expected_calibration_error(pairs) == 0
    )
    assert expected_calibration_error(np.array([(0.9, 1.0), (0.9, 0.0)])) == pytest.approx(0.4)


def test_average_precision_ignores_what_the_border_cuts_and_punishes_what_is_not_there():
    truth, cut = np.array([[10.0, 10, 110, 110], [300, 10, 340, 110]]), np.array([False, True])
    perfect = average_precision([LocalisationField(truth, cut, truth[:1], np.array([0.9]))])
    assert perfect == {"AP": pytest.approx(1), "AP50": pytest.approx(1), "AP75": pytest.approx(1)}
    also_cut = average_precision([LocalisationField(truth, cut, truth, np.array([0.8, 0.9]))])
    assert also_cut["AP50"] == pytest.approx(1)
    false = np.array([[10.0, 10, 110, 110], [150, 150, 250, 250]])
    assert average_precision([LocalisationField(truth, cut, false, np.array([0.5, 0.9]))])[
        "AP50"
    ] == pytest.approx(0.5, abs=0.01)
    assert (
        average_precision([LocalisationField(truth, cut, np.zeros((0, 4)), np.zeros(0))])["AP"] == 0
    )
    assert average_precision([]) == {}
    for found in (truth, truth[:0]):  # nothing to find but what the border cuts
        assert (
            average_precision(
                [LocalisationField(truth[1:], cut[1:], found, np.full(len(found), 0.9))]
            )
            == {}
        )
        assert (
            average_precision(
                [LocalisationField(truth[:0], cut[:0], found, np.full(len(found), 0.9))]
            )
            == {}
        )


def test_calibrating_without_held_out_images_is_refused(tmp_path):
    data, out = write_layout(tmp_path / "data", 1), tmp_path / "w.safetensors"
    result = CliRunner().invoke(main, ["calibrate", str(data), "--out", str(out)])
    assert result.exit_code == 1 and "data: holds no image of split 'val'" in result.output
    assert not out.exists()


def test_the_page_holds_figures_confusion_and_the_surest_mistakes(tmp_path):
    files = []
    for i in range(4):
        files.append(tmp_path / f"{i}<b>.png")
        Image.new("RGB", (50, 40), (200, 100 + i, 150)).save(files[-1])
    nan, probs = float("nan"), (1 / N_CLASSES,) * N_CLASSES
    seen = [
        EvaluatedCell(
            "s", ("blast",), True, said, sure, 0.9, nan, nan, nan, nan, (), str(file), False, probs
        )
        for file, said, sure in zip(
            files, ("blast", "monocyte", "lymphocyte", "blast"), (0.9, 0.6, 0.8, 0.7), strict=True
        )
    ]
    card = read_card()
    write_evaluation_page(tmp_path / "p.html", card, build_report(seen, {}, 0.5), seen)
    page = (tmp_path / "p.html").read_text()
    assert CLAIM in page and card.sha256 in page and "http" not in page.replace("http-equiv", "")
    surest, next_one = page.index("called lymphocyte (0.80)"), page.index("called monocyte (0.60)")
    assert surest < next_one and "2&lt;b&gt;.png" in page and page.count("data:image/jpeg") == 2
    assert "all / classes / accuracy" in page and "0.5000" in page
