"""Calls expected by error, held to slow simulations and closed forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemax_batch.cells.differential import expected_false_calls
from hemax_batch.cells.false_calls import NAMES, CallErrors, FalseCalls, true_numbers

MIX = {"segmented_neutrophil": 0.55, "lymphocyte": 0.30, "monocyte": 0.10, "eosinophil": 0.05}


def calls(source: str, rates: dict[str, dict[str, float]], cells: int) -> list:
    """(source, true, called) of `cells` of each class: wrong ones in exact proportion, the rest right."""
    found = []
    for true, wrong in rates.items():
        numbers = {name: round(cells * rate) for name, rate in wrong.items()}
        numbers[true] = cells - sum(numbers.values())
        found += [(source, true, name) for name, k in numbers.items() for _ in range(k)]
    return found


def errors_with(blast_rate: float, cells: int = 100_000) -> CallErrors:
    """One source; of lymphocytes a share is called blast, all else is right."""
    rates = {name: {} for name in (*MIX, "blast")} | {"lymphocyte": {"blast": blast_rate}}
    errors = CallErrors.from_calls(calls("a", rates, cells), 0.5)
    assert errors is not None
    return errors


def test_with_known_rates_the_number_is_a_poisson_binomial_of_the_cells():
    # 60 lymphocytes called right stand beside 60 p / (1 - p) called blast
    found = errors_with(0.05).false_calls({"segmented_neutrophil": 140, "lymphocyte": 60}, "blast")
    expected = 60 * 0.05 / 0.95
    assert found.expected == pytest.approx(expected, rel=0.05)
    simulated = np.random.default_rng(1).negative_binomial(60, 0.95, 200_000)
    low, high = np.quantile(simulated, [0.025, 0.975], method="inverted_cdf")
    assert (found.low, found.high) == (low, high)


def test_the_class_itself_is_not_looked_at():
    errors, others = errors_with(0.05), {"segmented_neutrophil": 140, "lymphocyte": 60}
    assert errors.false_calls(others, "blast") == errors.false_calls(
        others | {"blast": 150}, "blast"
    )


def test_a_leukaemia_is_more_than_error_explains_and_a_healthy_slide_is_not():
    """Slow oracle: slides simulated cell by cell, of the very rates that the table knows."""
    rates = {name: {} for name in (*MIX, "blast")}
    rates["lymphocyte"], rates["monocyte"] = {"blast": 0.02}, {"blast": 0.05, "lymphocyte": 0.1}
    errors = CallErrors.from_calls(calls("a", rates, 2000), 0.5)
    assert errors is not None
    random, beyond, expected = np.random.default_rng(0), [], []
    for blasts in (0, 0.2):
        mix = {name: share * (1 - blasts) for name, share in MIX.items()} | {"blast": blasts}
        for _ in range(40):
            called: dict[str, int] = {}
            for true in random.choice(list(mix), 200, p=list(mix.values())):
                wrong = rates[true]
                names, p = [*wrong, true], [*wrong.values(), 1 - sum(wrong.values())]
                name = str(random.choice(names, p=p))
                called[name] = called.get(name, 0) + 1
            found = errors.false_calls(called, "blast")
            beyond.append(called.get("blast", 0) > found.high)
            expected.append(found.expected)
    assert sum(beyond[:40]) <= 4  # 2.5 % expected
    assert all(beyond[40:])
    assert np.mean(expected[:40]) == pytest.approx(200 * (0.3 * 0.02 + 0.1 * 0.05), rel=0.15)


def test_few_held_out_cells_and_sources_that_differ_widen_the_interval():
    slide = {"segmented_neutrophil": 130, "lymphocyte": 70}
    many = errors_with(0.02, 10_000).false_calls(slide, "blast")
    few = errors_with(0.02, 100).false_calls(slide, "blast")
    assert few.high > many.high
    clean = calls("b", {name: {} for name in (*MIX, "blast")}, 1000)
    spoilt = {name: {} for name in (*MIX, "blast")} | {"lymphocyte": {"blast": 0.1}}
    both = CallErrors.from_calls([*calls("a", spoilt, 1000), *clean], 0.5)
    assert both is not None
    apart = both.false_calls(slide, "blast")
    assert apart.low == 0 and apart.high > 10  # the interval reaches from one source to the other


def test_the_record_is_read_back_and_what_is_not_there_is_not_known():
    errors = errors_with(0.05, 200)
    back = CallErrors.from_record(errors.record())
    assert back is not None and np.array_equal(back.counts, errors.counts)
    assert back.sources == errors.sources and back.min_confidence == 0.5
    assert CallErrors.from_record(None) is None and CallErrors.from_record({}) is None
    assert CallErrors.from_calls([("a", "platelet", "platelet")], 0.5) is None
    assert expected_false_calls(None, ["lymphocyte"]) == {}


def test_the_same_slide_gives_the_same_numbers_and_an_empty_one_none():
    errors = errors_with(0.05, 300)
    slide = {"lymphocyte": 50, "monocyte": 9, "plasma_cell": 2}  # of a class never held out
    assert errors.false_calls(slide, "blast") == errors.false_calls(slide, "blast")
    assert errors.false_calls({}, "blast") == FalseCalls(0.0, 0, 0)


def test_bands_and_segmented_together_leave_out_what_is_mistaken_between_them():
    rates = {"band_neutrophil": {"segmented_neutrophil": 0.3}, "segmented_neutrophil": {}}
    rates |= {"lymphocyte": {}, "monocyte": {"band_neutrophil": 0.1}}
    errors = CallErrors.from_calls(calls("a", rates, 5000), 0.5)
    assert errors is not None
    slide = ["band_neutrophil"] * 70 + ["segmented_neutrophil"] * 30 + ["monocyte"] * 90
    found = expected_false_calls(errors, slide)
    # beside 90 monocytes, 10 of the 70 bands are monocytes too; 30 in 100 true bands are called segmented
    assert found["segmented_neutrophil"].expected == pytest.approx(60 * 0.3 / 0.7, rel=0.05)
    assert found["neutrophils"].expected == pytest.approx(10, rel=0.1)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 40), min_size=len(NAMES), max_size=len(NAMES)), st.integers(0, 999))
def test_true_numbers_sum_to_the_calls_and_fit_no_worse_than_any_other(called, seed):
    """Oracle: the likelihood at random other mixes is never higher than at the estimate."""
    random = np.random.default_rng(seed)
    weights = random.random((len(NAMES), len(NAMES))) + 8 * np.eye(len(NAMES))
    is_target = np.arange(len(NAMES)) == 0
    numbers = true_numbers(weights, np.array(called, float), is_target, ~is_target)
    calls_of_others = np.array(called, float) * ~is_target
    assert numbers.sum() == pytest.approx(calls_of_others.sum()) and numbers[0] == 0
    rates = weights * ~is_target
    rates /= rates.sum(1, keepdims=True)

    def loss(mix: np.ndarray) -> float:
        used = calls_of_others > 0
        return -float((calls_of_others[used] * np.log((mix @ rates)[used])).sum())

    if calls_of_others.sum():
        best = loss(numbers / numbers.sum())
        for _ in range(20):
            other = random.dirichlet(np.full(len(NAMES), 0.5)) * ~is_target
            assert best <= loss(other / other.sum()) + 0.05
