"""A µm/px that the red cells contradict is said everywhere a reader looks, and nothing is corrected silently."""

from __future__ import annotations

import json

import numpy as np
import painted_network
import pytest
from array_slide import ArrayReader, smear_rgb
from click.testing import CliRunner
from painted_slides import smear, write_pyramid

from hemax_batch.cli.app import main
from hemax_batch.errors import UnsuitableSlideError
from hemax_batch.scheduling import work_queue
from hemax_batch.slides.reader import open_slide
from hemax_batch.slides.scale_check import measure_scale, scale_warning
from hemax_batch.slides.stain import measure_stain


def warning_of(true_um: float, told_um: float) -> str:
    reader = ArrayReader(smear_rgb(200, 200, true_um), told_um, (1.0, 2.0, 4.0))
    return scale_warning(reader.slide, measure_scale(reader, measure_stain(reader)))


@pytest.mark.parametrize("factor", [2.54, 2, 1.5, 1 / 1.5, 1 / 2, 1 / 2.54])
def test_a_wrong_scale_is_told_with_the_likely_one(factor):
    true_um = 0.1 if factor > 1 else 0.25
    words = warning_of(true_um, true_um * factor)
    assert f"at {true_um * factor:.4g} µm/px" in words and "--mpp" in words
    suggested = float(words.split("more likely ")[1].split(";")[0])
    assert suggested == pytest.approx(true_um, rel=0.05)


@pytest.mark.parametrize("factor", [1 / 1.2, 1, 1.2])
def test_what_a_patient_may_have_is_not_questioned(factor):
    assert warning_of(0.25, 0.25 * factor) == ""


def test_without_red_cells_nothing_is_said():
    reader = ArrayReader(np.full((900, 900, 3), (240, 236, 228), np.uint8), 0.25)
    assert scale_warning(reader.slide, measure_scale(reader, measure_stain(reader))) == ""


def test_swapped_colours_are_named():
    rgb = smear_rgb(200, 200, 0.25)
    right, swapped = (
        measure_stain(ArrayReader(np.ascontiguousarray(pixels), 0.25)).warnings
        for pixels in (rgb, rgb[..., ::-1])
    )
    assert not any("blue, green, red" in text for text in right)
    assert any("blue, green, red" in text for text in swapped)


def test_log_record_flags_and_report_say_it(tmp_path, weights, monkeypatch):
    monkeypatch.setattr(work_queue, "process_region", painted_network.process_region)
    path = write_pyramid(tmp_path / "inch.tif", smear_rgb(250, 200, 0.25), mpp=0.25 / 2.54)
    out, log = tmp_path / "out", tmp_path / "log.jsonl"
    command = ["run", path, "--out", out, "--weights", weights, "--workers", 0, "--log-json", log]
    result = CliRunner().invoke(main, list(map(str, command)))
    assert result.exit_code == 0, result.output
    words, own = "µm/px is more likely 0.2", out / "inch"
    assert words in result.output
    assert any(words in json.loads(line).get("text", "") for line in log.read_text().splitlines())
    assert any(words in text for text in json.loads((own / "result.json").read_text())["warnings"])
    flags = json.loads((own / "differential.json").read_text())["flags"]
    assert any(flag["rule"] == "red_cell_size" and words in flag["words"] for flag in flags)
    assert words in (own / "report.html").read_text("utf-8")


def test_pixels_that_are_not_square_are_refused_and_mpp_that_differs_is_said(tmp_path):
    path = write_pyramid(tmp_path / "a.tif", smear(), mpp=None, resolution=(1e5, 1e5 / 1.03))
    with open_slide(path, "s", mpp=0.2) as reader:
        assert reader.slide.mpp == 0.2
    path = write_pyramid(
        tmp_path / "b.tif", smear(), mpp=None, resolution=(1e5, 1.03e5), resolutionunit=3
    )
    with pytest.raises(UnsuitableSlideError, match="not square"):
        open_slide(path, "s")
    with open_slide(path, "s", mpp=0.2) as reader:
        [words] = reader.slide.warnings
        assert "--mpp 0.2 is taken" in words and "0.1 x 0.09709 µm/px" in words
