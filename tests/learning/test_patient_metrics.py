"""Figures by patient: values by hand, and intervals that know that a patient's cells are alike."""

import numpy as np
import pytest

from hemax_batch.learning.evaluation.metrics import EvaluatedCell
from hemax_batch.learning.evaluation.patient_metrics import (
    balanced_recall,
    patient_figures,
    right_share,
    surest_right,
)

NAN = float("nan")


def cell(patient, true, called, confidence=0.9):
    allowed = tuple(true.split("|"))
    return EvaluatedCell(
        "apl", allowed, True, called, confidence, NAN, NAN, NAN, NAN, NAN, (), f"{patient}.jpg",
        patient=patient,
    )  # fmt: skip


def test_shares_by_hand():
    cells = [
        cell("a", "blast", "blast", 0.9),
        cell("a", "blast", "monocyte", 0.8),
        cell("b", "monocyte", "monocyte", 0.7),
        cell("b", "monocyte", "blast", 0.2),
        cell("b", "monocyte", "monocyte", 0.6),
    ]
    assert right_share(cells) == pytest.approx(3 / 5)
    assert balanced_recall(cells) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert surest_right(cells) == pytest.approx(2 / 3)


def test_blast_equivalents_count_as_blasts():
    cells = [
        cell("a", "blast|monocyte", "promyelocyte"),
        cell("a", "promyelocyte", "blast"),
        cell("b", "blast", "monocyte"),
        cell("b", "lymphocyte", "lymphocyte"),
        cell("b", "lymphocyte", "blast"),
    ]
    figures = patient_figures(cells)
    assert figures["blast, equivalent or promyelocyte, sensitivity"]["value"] == pytest.approx(
        2 / 3
    )
    assert figures["blast, equivalent or promyelocyte, specificity"]["value"] == pytest.approx(0.5)


def test_the_interval_is_over_patients():
    # ten cells of each patient are all right or all wrong: ten cells tell no more than one
    calls = ["monocyte" if k % 2 else "blast" for k in range(20)]
    cells = [cell(f"p{k}", "monocyte", calls[k]) for k in range(20) for _ in range(10)]
    figure = patient_figures(cells)["seven trusted classes, right"]
    assert (figure["n"], figure["patients"], figure["value"]) == (200, 20, 0.5)
    over_cells = 1.96 * np.sqrt(0.25 / 200)
    assert figure["high"] - figure["low"] > 2 * (2 * over_cells)


def test_without_patients_there_are_no_figures():
    assert patient_figures([cell("", "monocyte", "monocyte")]) == {}
    assert patient_figures([]) == {}


def test_the_card_is_one_page_and_keeps_every_figure_beside_it(tmp_path):
    import json

    from hemax_batch.learning.evaluation.model_card import figures_path, write_card
    from hemax_batch.model.checkpoint import read_card

    card = read_card()
    write_card(card, tmp_path / "card.md")
    text = (tmp_path / "card.md").read_text("utf-8")
    assert len(text.splitlines()) < 110
    assert json.loads(figures_path(tmp_path / "card.md").read_text("utf-8")) == card.metrics
    for source in card.trained["images"]:
        assert card.trained["images"][source] >= 0 and source
    if "apl" in card.trained["images"]:
        assert "No licence text came with: apl" in text
