"""Two reviewers: kappa against scikit-learn, limits of a difference against sums and worked examples."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from hemax_batch.cells.differential import clopper_pearson, count_differential
from hemax_batch.review.agreement import cohen_kappa, difference_limits, differences


@pytest.mark.slow
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=40))
def test_kappa_is_scikit_learns(pairs):
    first, second = [p[0] for p in pairs], [p[1] for p in pairs]
    ours = cohen_kappa(first, second)
    if len(set(first + second)) == 1:
        assert np.isnan(ours)
    else:
        assert ours == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)


def test_kappa_of_a_worked_example():
    """20 both yes, 15 both no, 5 and 10 otherwise: 0.70 seen, 0.50 by chance."""
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert cohen_kappa(first, second) == pytest.approx(0.4)
    assert math.isnan(cohen_kappa([], []))
    with pytest.raises(ValueError, match="1 and 0 cells"):
        cohen_kappa(["a"], [])


def test_limits_of_a_difference_hold_95_of_100_times():
    """Of simulated pairs of counts of the same blood, and of different blood, at least 94 % lie within."""
    rng = np.random.default_rng(0)
    for n1, n2, p1, p2 in ((100, 100, 0.05, 0.05), (200, 200, 0.3, 0.2), (200, 100, 0.01, 0.03)):
        k1, k2 = rng.binomial(n1, p1, 400), rng.binomial(n2, p2, 400)
        held = [
            low <= p2 - p1 <= high
            for low, high in (
                difference_limits(int(x), n1, int(y), n2) for x, y in zip(k1, k2, strict=True)
            )
        ]
        assert np.mean(held) > 0.94
    assert difference_limits(0, 0, 1, 5) == (-1.0, 1.0)


def test_limits_of_a_difference_against_worked_ones():
    """56/70 against 48/80 is Newcombe's example (a): his method 10 with Wilson's limits gives 0.0524 to 0.3339; the
    exact limits used here are wider, by little."""
    low, high = difference_limits(48, 80, 56, 70)
    assert 0.03 < low < 0.0524 and 0.3339 < high < 0.355


@given(st.integers(0, 60), st.integers(0, 60), st.integers(60, 300), st.integers(60, 300))
def test_the_order_of_the_reviewers_only_turns_the_sign(k1, k2, n1, n2):
    low, high = difference_limits(k1, n1, k2, n2)
    assert difference_limits(k2, n2, k1, n1) == pytest.approx((-high, -low))
    assert low <= k2 / n2 - k1 / n1 <= high


@pytest.mark.parametrize(("n", "share"), [(100, 0.05), (100, 0.5)])
def test_how_often_counts_of_the_same_blood_are_struck(n, share):
    """The figures that the module states, by the full binomial sum: 14-18 and 3-4 in 100."""
    chance = stats.binom.pmf(np.arange(n + 1), n, share)
    seen = [k for k in range(n + 1) if chance[k] > 1e-5]
    limits = {k: clopper_pearson(k, n) for k in seen}
    not_within = beyond = 0.0
    for a in seen:
        for b in seen:
            weight = chance[a] * chance[b]
            inside = limits[a][0] <= b / n <= limits[a][1] and limits[b][0] <= a / n <= limits[b][1]
            low, high = difference_limits(a, n, b, n)
            not_within += weight * (not inside)
            beyond += weight * (low > 0 or high < 0)
    assert 0.135 < not_within < 0.19 and 0.025 < beyond < 0.05


def test_a_class_that_only_one_counted_is_nought_in_the_other():
    first = count_differential(["lymphocyte"] * 90 + ["plasma_cell"] * 10)
    second = count_differential(["lymphocyte"] * 100)
    found = {d.class_name: d for d in differences(first, second)}
    plasma = found["plasma_cell"]
    assert (plasma.first, plasma.second, plasma.mean, plasma.difference) == (10.0, 0.0, 5.0, -10.0)
    assert plasma.beyond_chance and not plasma.within
    assert (
        list(found)[0] == "neutrophils"
        and not found["blast"].beyond_chance
        and found["blast"].within
    )


def test_counts_of_nothing_differ_by_nothing_that_can_be_told():
    d = {
        d.class_name: d
        for d in differences(count_differential([]), count_differential(["lymphocyte"] * 5))
    }["lymphocyte"]
    assert math.isnan(d.difference) and (d.low, d.high) == (-100.0, 100.0) and not d.beyond_chance
