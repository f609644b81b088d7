"""Each statistic against a published example, a closed form or a slow oracle."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hemax_batch.laboratory import statistics as s

# NCSS, Deming Regression, example 1: error variances 0.008 of Y and 0.032 of X
DEMING_X = [7, 8.3, 10.5, 9, 5.1, 8.2, 10.2, 10.3, 7.1, 5.9]
DEMING_Y = [7.9, 8.2, 9.6, 9, 6.5, 7.3, 10.2, 10.6, 6.3, 5.2]
# the data of NCSS's Passing-Bablok example, as the R package SimplyAgree transcribes them;
# its tests hold that the R packages MethComp and deming give slope 1.00 and intercept -0.15
PB_X = [
    69.3,
    27.1,
    61.3,
    50.8,
    34.4,
    92.3,
    57.5,
    45.5,
    33.3,
    60.9,
    56.3,
    49.9,
    89.7,
    28.9,
    96.3,
    76.6,
    83.2,
    79.4,
    51.7,
    32.5,
    14.2,
    99.1,
    76.8,
    95.4,
    84.1,
    48.8,
    80.4,
    84.5,
    61.4,
    26.9,
]
PB_Y = [
    69.1,
    26.7,
    61.4,
    51.2,
    34.7,
    88.5,
    57.9,
    45.1,
    33.4,
    60.8,
    66.5,
    48.2,
    88.3,
    29.3,
    96.4,
    77.1,
    82.7,
    78.9,
    51.6,
    28.8,
    12.7,
    98.6,
    77.3,
    94.9,
    83.3,
    47.0,
    80.9,
    84.7,
    61.3,
    26.7,
]
# Bland and Altman, Lancet 1986, table 1: peak expiratory flow, first readings, l/min
WRIGHT = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
MINI = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]
# the trials of BCG vaccine of Colditz, JAMA 1994: log relative risks and their variances
BCG = [
    -0.8893,
    -1.5854,
    -1.3481,
    -1.4416,
    -0.2175,
    -0.7861,
    -1.6209,
    0.0120,
    -0.4694,
    -1.3713,
    -0.3394,
    0.4459,
    -0.0173,
]
BCG_VARIANCES = [
    0.3256,
    0.1946,
    0.4154,
    0.0200,
    0.0512,
    0.0069,
    0.2230,
    0.0040,
    0.0564,
    0.0730,
    0.0124,
    0.5325,
    0.0714,
]

finite = st.floats(-50, 50, allow_nan=False).map(lambda v: round(v, 3))


# --- estimates


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        (9, 100, 4.2, 16.4),
        (0, 200, 0, 1.8),
        (2, 200, 0.1, 3.6),
        (10, 200, 2.4, 9.0),
        (20, 200, 6.2, 15.0),
        (0, 1000, 0, 0.37),
    ],
)
def test_exact_limits_are_those_of_ruemkes_table(k, n, low, high):
    digits = 2 if n == 1000 else 1
    one = s.proportion(k, n).scaled(100)
    assert (round(one.low, digits), round(one.high, digits)) == (low, high)
    many = s.clopper_pearson([k, k], n)
    assert [round(100 * float(v[0]), digits) for v in many] == [low, high]


def test_exact_limits_without_cells_say_nothing():
    assert [float(v) for v in s.clopper_pearson(0, 0)] == [0, 1] and not s.proportion(0, 0).exists
    with pytest.raises(ValueError, match="between 0 and its total"):
        s.clopper_pearson(3, 2)


def test_mean_interval_is_students_one_sample_interval():
    values = [4.0, 5.5, 6.1, 3.9]
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    estimate = s.mean_estimate(values)
    assert (estimate.low, estimate.high) == pytest.approx(tuple(expected))
    assert math.isnan(s.mean_estimate([1.0]).low) and not s.mean_estimate([]).exists


def test_sd_interval_is_the_handbooks_example():
    """NIST handbook 7.2.3.1: 100 gears of standard deviation 0.00628 have 0.00551 to 0.00730."""
    estimate = s.sd_estimate(0.00628, 99)
    assert (round(estimate.low, 5), round(estimate.high, 5)) == (0.00551, 0.00730)


# --- counting


@pytest.mark.parametrize("p", [0.0, 0.02, 0.3, 0.5, 0.97])
@pytest.mark.parametrize(("n1", "n2"), [(20, 20), (25, 40), (13, 7)])
def test_chance_agreement_is_the_sum_over_all_pairs(p, n1, n2):
    k1, k2 = np.meshgrid(np.arange(n1 + 1), np.arange(n2 + 1), indexing="ij")
    weights = stats.binom.pmf(k1, n1, p) * stats.binom.pmf(k2, n2, p)
    slow = float(np.sum(weights * s.within_limits(k1, n1, k2, n2)))
    assert s.chance_within_limits(p, n1, n2) == pytest.approx(slow, abs=1e-9)


def test_chance_agreement_is_what_simulated_counts_reach():
    rng = np.random.default_rng(0)
    k1, k2 = rng.binomial(200, 0.2, 20_000), rng.binomial(400, 0.2, 20_000)
    assert float(s.within_limits(k1, 200, k2, 400).mean()) == pytest.approx(
        s.chance_within_limits(0.2, 200, 400), abs=0.01
    )


def test_limits_of_a_difference_are_those_of_the_reviewers_agreement():
    """The formula that `retally` uses for two reviewers, here for many slides at once."""
    from hemax_batch.review.agreement import difference_limits

    rng = np.random.default_rng(2)
    n1, n2 = rng.integers(1, 300, 300), rng.integers(1, 1500, 300)
    k1, k2 = rng.binomial(n1, 0.3), rng.binomial(n2, 0.4)
    limits = [difference_limits(*map(int, v)) for v in zip(k1, n1, k2, n2, strict=True)]
    expected = [low <= 0 <= high for low, high in limits]
    assert s.within_difference_limits(k1, n1, k2, n2).tolist() == expected
    assert not s.within_difference_limits(0, 0, 1, 2)


@pytest.mark.parametrize(("n1", "n2"), [(200, 200), (400, 350), (200, 1000)])
def test_counting_explains_nearly_all_differences_of_the_same_blood(n1, n2):
    rng = np.random.default_rng(3)
    for p in (0.02, 0.1, 0.5):
        k1, k2 = rng.binomial(n1, p, 20_000), rng.binomial(n2, p, 20_000)
        assert s.within_difference_limits(k1, n1, k2, n2).mean() > 0.945


def test_counting_sd_is_that_of_simulated_counts():
    rng = np.random.default_rng(1)
    d = rng.binomial(100, 0.3, 40_000) / 100 - rng.binomial(200, 0.3, 40_000) / 200
    assert float(d.std()) == pytest.approx(float(s.counting_sd(0.3, 100, 200)), rel=0.02)


# --- regression


def test_passing_bablok_is_the_published_example():
    line = s.passing_bablok(PB_X, PB_Y)
    assert (round(line.slope.value, 2), round(line.intercept.value, 2)) == (1.00, -0.15)
    assert line.slope.contains(1) and line.intercept.contains(0)


@given(st.lists(st.tuples(finite, finite), min_size=3, max_size=9, unique=True))
def test_passing_bablok_is_its_definition(points):
    x, y = np.array(points).T
    slopes = []
    for i in range(len(x)):
        for j in range(i):
            if x[i] == x[j]:
                slopes.append(math.inf)
            elif (slope := (y[j] - y[i]) / (x[j] - x[i])) != -1:
                slopes.append(slope)
    slopes.sort()
    k = sum(value < -1 for value in slopes)
    n = len(slopes)
    ranks = [(n + 1) // 2 + k] if n % 2 else [n // 2 + k, n // 2 + 1 + k]  # counted from 1
    line = s.passing_bablok(x, y)
    if not n or max(ranks) > n or len(set(x)) < 2 or math.isinf(slopes[max(ranks) - 1]):
        assert not line.exists
    else:
        assert line.slope.value == pytest.approx(
            np.mean([slopes[r - 1] for r in ranks]), rel=1e-9, abs=1e-12
        )


def test_passing_bablok_of_x_on_y_is_the_same_line():
    forth, back = s.passing_bablok(PB_X, PB_Y), s.passing_bablok(PB_Y, PB_X)
    assert back.slope.value == pytest.approx(1 / forth.slope.value, rel=1e-4)
    assert back.slope.low == pytest.approx(1 / forth.slope.high, rel=1e-9)


def test_passing_bablok_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(300):
        truth = rng.uniform(0, 100, 40)
        line = s.passing_bablok(truth + rng.normal(0, 3, 40), 2 + truth + rng.normal(0, 3, 40))
        held += line.slope.contains(1)
    assert 0.91 < held / 300 < 0.99


def test_deming_is_the_published_example():
    line = s.deming(DEMING_X, DEMING_Y, variance_ratio=0.008 / 0.032)
    assert (round(line.slope.value, 5), round(line.intercept.value, 5)) == (1.00119, -0.08974)
    assert (round(line.slope.low, 4), round(line.slope.high, 3)) == (0.5696, 1.433)
    assert (round(line.intercept.low, 4), round(line.intercept.high, 3)) == (-4.0607, 3.881)


def test_orthogonal_regression_is_the_first_principal_axis():
    points = np.array([DEMING_X, DEMING_Y])
    axis = np.linalg.eigh(np.cov(points))[1][:, -1]
    assert s.deming(DEMING_X, DEMING_Y).slope.value == pytest.approx(axis[1] / axis[0])


def test_lines_that_the_data_do_not_determine_are_absent():
    for fit in (s.passing_bablok, s.deming):
        assert not fit([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]).exists
        assert not fit([1.0, 2.0], [1.0, 2.0]).exists
    with pytest.raises(ValueError, match="equal length"):
        s.deming([1.0], [1.0, 2.0])


def test_correlations_are_scipys_and_their_intervals_the_published_ones():
    r = s.pearson(WRIGHT, MINI)
    assert round(r.value, 2) == 0.94  # Bland and Altman 1986
    rank = s.spearman(WRIGHT, MINI)
    half = 1.959964 * math.sqrt((1 + rank.value**2 / 2) / 14)
    assert rank.low == pytest.approx(math.tanh(math.atanh(rank.value) - half), abs=1e-6)
    assert (
        not s.pearson([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]).exists
        and not s.spearman([1.0, 2.0], [2.0, 1.0]).exists
    )


# --- agreement


def test_bland_altman_is_the_published_example():
    """Lancet 1986: bias -2.1 (-22.1 to 17.8), standard deviation 38.8; with 1.96 s limits of -78.1
    and 73.9.
    """
    found = s.bland_altman(np.subtract(WRIGHT, MINI))
    assert [round(v, 1) for v in (found.bias.value, found.bias.low, found.bias.high, found.sd)] == [
        -2.1,
        -22.0,
        17.8,
        38.8,
    ]
    assert [round(v.value, 1) for v in (found.lower, found.upper)] == [-78.1, 73.9]


def test_intervals_of_the_limits_are_the_published_ones():
    """Stat Methods Med Res 1999: 85 differences of mean -16.29 and SD 19.61: -54.7 (-61.9 to
    -47.5), 22.1 (14.9 to 29.3).
    """
    d = np.linspace(-1, 1, 85)
    found = s.bland_altman(-16.29 + 19.61 * d / np.std(d, ddof=1))
    numbers = [
        found.lower.value,
        found.lower.low,
        found.lower.high,
        found.upper.value,
        found.upper.low,
        found.upper.high,
    ]
    assert numbers == pytest.approx([-54.7, -61.9, -47.5, 22.1, 14.9, 29.3], abs=0.15)
    assert not s.bland_altman([1.0]).lower.exists


def test_kappa_is_the_usual_example_and_its_error_the_delta_methods():
    table = np.array([[20.0, 5.0, 1.0], [10.0, 15.0, 2.0], [0.0, 3.0, 9.0]])
    assert s.cohen_kappa([[20, 5], [10, 15]]).value == pytest.approx(0.4)
    n, p = table.sum(), (table / table.sum()).ravel()

    def kappa(flat):
        q = flat.reshape(3, 3)
        chance = float(q.sum(1) @ q.sum(0))
        return (np.trace(q) - chance) / (1 - chance)

    step = 1e-6
    gradient = np.array(
        [(kappa(p + step * e) - kappa(p - step * e)) / (2 * step) for e in np.eye(9)]
    )
    error = math.sqrt(gradient @ ((np.diag(p) - np.outer(p, p)) / n) @ gradient)
    found = s.cohen_kappa(table)
    assert found.value == pytest.approx(kappa(p)) and (
        found.value - found.low
    ) / 1.959964 == pytest.approx(error, rel=1e-4)
    assert not s.cohen_kappa([[5, 0], [0, 0]]).exists and not s.cohen_kappa([[0, 0], [0, 0]]).exists


def test_kappa_is_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(5)
    a, b = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    table = metrics.confusion_matrix(a, b)
    assert s.cohen_kappa(table).value == pytest.approx(metrics.cohen_kappa_score(a, b))


def test_a_method_that_is_a_third_examiner_is_interchangeable():
    rng = np.random.default_rng(7)
    truth = rng.normal(0, 5, 400)
    e1, e2, like, worse = (truth + rng.normal(0, sd, 400) for sd in (1, 1, 1, 3))
    assert s.interchangeability(like, e1, e2).contains(0)
    further = s.interchangeability(worse, e1, e2)
    assert further.low > 0 and further.contains(3**2 - 1**2)  # E = var(worse) - var(examiner)
    assert s.interchangeability(worse, e1, e2) == further  # the same data give the same interval
    assert not s.interchangeability([], [], []).exists


def test_repeatability_of_counts_is_that_of_counting():
    rng = np.random.default_rng(11)
    shares = rng.uniform(0.1, 0.5, 60)
    counts = [rng.binomial(200, p, 3).tolist() for p in shares]
    found = s.repeatability(counts, [[200] * 3] * 60)
    assert (found.slides, found.scans) == (60, 180) and found.ratio.contains(1)
    assert found.counting_sd == pytest.approx(
        math.sqrt(np.mean(shares * (1 - shares)) / 200), rel=0.03
    )
    pair = s.repeatability([[10, 14], [3]], [[100, 100], [100]])  # one slide alone: |d| / √2
    assert (pair.slides, pair.sd.value) == (1, pytest.approx(0.04 / math.sqrt(2)))
    alone = s.repeatability(
        [[10, 14]] + [[0, 0]] * 9, [[100, 100]] * 10
    )  # one slide in ten tells: one degree of freedom
    assert alone.sd.high / alone.sd.value == pytest.approx(s.sd_estimate(1.0, 1).high)
    assert not s.repeatability([], []).sd.exists


# --- control


def test_limits_of_a_baseline_are_the_published_example():
    """DerSimonian and Laird on the BCG trials: tau² 0.3088, mean -0.7141."""
    limits = s.control_limits(BCG, np.sqrt(BCG_VARIANCES))
    assert limits.between_sd**2 == pytest.approx(0.3088, abs=5e-4)
    assert limits.centre == pytest.approx(-0.7141, abs=5e-4)


def test_limits_without_sampling_errors_are_mean_and_sd():
    limits = s.control_limits([7.0, 7.2, 7.1, 6.9], np.zeros(4))
    assert (limits.centre, limits.between_sd) == (
        pytest.approx(7.05),
        pytest.approx(np.std([7.0, 7.2, 7.1, 6.9], ddof=1)),
    )
    assert np.isnan(s.control_limits([1.0, 1.0], [0.0, 0.0]).z([2.0], [0.0]))
    assert s.control_limits([0.0, 0.0], [3.0, 3.0]).z([6.0], [3.0]) == pytest.approx(2.0)


@given(
    st.lists(st.one_of(st.floats(-4, 4).map(lambda v: round(v, 1)), st.just(math.nan)), max_size=30)
)
def test_westgard_rules_are_their_words(z):
    """Against each rule read out loud, on the points that are there."""
    there = [v for v in z if not math.isnan(v)]

    def last(i, count, holds):
        return i + 1 >= count and (
            all(holds(v) for v in there[i + 1 - count : i + 1])
            or all(holds(-v) for v in there[i + 1 - count : i + 1])
        )

    expected = iter(
        [
            tuple(
                name
                for name, broken in (
                    ("1_2s", abs(v) > 2),
                    ("1_3s", abs(v) > 3),
                    ("2_2s", last(i, 2, lambda u: u > 2)),
                    ("R_4s", i > 0 and max(v, there[i - 1]) > 2 and min(v, there[i - 1]) < -2),
                    ("4_1s", last(i, 4, lambda u: u > 1)),
                    ("10_x", last(i, 10, lambda u: u > 0)),
                )
                if broken
            )
            for i, v in enumerate(there)
        ]
    )
    assert s.westgard(z) == [() if math.isnan(v) else next(expected) for v in z]


def test_three_sd_reject_as_seldom_as_the_normal_law_says():
    z = np.random.default_rng(13).normal(size=200_000)
    share = np.mean([s.rejected(broken) for broken in s.westgard(z, ("1_2s", "1_3s"))])
    assert share == pytest.approx(2 * stats.norm.sf(3), rel=0.15)
