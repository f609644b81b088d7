"""The verdict that a slide is outside what the network was measured on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from hemax_batch.cells.outside import binomial_tail, expected_share, judge_slide


def scores(unfamiliar: int, cells: int) -> np.ndarray:
    return np.r_[np.full(unfamiliar, 1.4), np.full(cells - unfamiliar, 0.6)]


@given(st.integers(0, 300), st.integers(1, 300), st.floats(0.001, 0.5))
def test_the_tail_is_scipys(k, n, share):
    assert binomial_tail(min(k, n), n, share) == pytest.approx(
        binom.sf(min(k, n) - 1, n, share), abs=1e-9
    )


def test_a_slide_of_many_unfamiliar_cells_is_outside_and_says_both_values():
    verdict = judge_slide(scores(37, 240), 0.01, 5.0)
    assert verdict is not None and verdict.outside and verdict.p_value < 1e-9
    assert verdict.words == (
        "this slide is outside what the network was measured on: 37 of 240 cells (15.4 %) are unlike all that it "
        "knows; 1.0 % are expected, the limit is 5 %. The differential is not reportable"
    )


@pytest.mark.parametrize(
    "unfamiliar, cells, expected, limit",
    [
        (0, 100, 0.01, 5.0),
        (2, 20, 0.01, 5.0),  # 10 %, but two of twenty may be chance
        (200, 5000, 0.01, 5.0),  # beyond chance, but 4 % is under the limit
        (12, 100, 0.10, 5.0),  # this network finds one in ten of known cells unfamiliar
        (16, 100, 0.01, 20.0),  # a laboratory's own limit
    ],
)
def test_few_unfamiliar_cells_are_no_verdict(unfamiliar, cells, expected, limit):
    verdict = judge_slide(scores(unfamiliar, cells), expected, limit)
    assert verdict is not None and not verdict.outside and verdict.words == ""


def test_weights_without_a_detector_say_nothing():
    assert (
        judge_slide(np.zeros(50), 0.01, 5.0) is None and judge_slide(np.zeros(0), 0.01, 5.0) is None
    )


def test_the_share_expected_is_the_cards_and_at_least_the_nominal_one():
    def card(value):
        return {
            "unfamiliar (other half than fitted on)": {
                "known cells flagged": {"all": {"value": value}}
            }
        }

    assert expected_share(card(0.034)) == 0.034 and expected_share(card(0.002)) == 0.01
    assert (
        expected_share({}) == expected_share({"unfamiliar (other half than fitted on)": {}}) == 0.01
    )
