"""The differential against published tables, and explanations against classes."""

import numpy as np
import pytest
from cellbank import cells_at
from scipy import stats

from hemax_batch.cells import differential
from hemax_batch.cells.differential import Rules, clopper_pearson, count
from hemax_batch.cells.explain import CONTRADICTIONS, read_cells
from hemax_batch.cells.measure import NORMAL_RBC_UM, measure
from hemax_batch.errors import UsageError
from hemax_batch.vocabulary import ATTRIBUTES, CLASS_NAMES, WHITE_NAMES


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
def test_limits_are_those_of_the_published_table(k, n, low, high):
    found = [100 * v for v in clopper_pearson(k, n)]
    assert found == pytest.approx([low, high], abs=0.05 if high > 1 else 0.005)


def test_limits_equal_scipys_exactly():
    rng = np.random.default_rng(0)
    for n in (1, 2, 7, 50, 100, 200, 400, 1000):
        for k in {0, n, *rng.integers(0, n + 1, 40).tolist()}:
            exact = stats.binomtest(k, n).proportion_ci(0.95, method="exact")
            assert clopper_pearson(k, n) == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_denominator_is_white_cells_only():
    d = count(
        ["lymphocyte"] * 30
        + ["segmented_neutrophil"] * 60
        + ["band_neutrophil"] * 10
        + ["erythroblast"] * 6
        + ["unidentified"] * 4,
        wbc=10.6,
    )
    assert d.n_white == 100 and d.shares["lymphocyte"].percent == 30
    assert (d.neutrophils.count, d.neutrophils.percent) == (70, 70)
    assert d.nrbc_per_100 == 6 and d.corrected_wbc == pytest.approx(10.0) and d.unidentified == 4
    assert not d.sufficient and d.flags[0].startswith("insufficient: 100 white cells counted, 200 asked for")
    assert any("left shift" in f for f in d.flags) and any("6 nucleated red cells" in f for f in d.flags)


def test_no_cells_are_no_percentages():
    d = count([])
    assert np.isnan([d.neutrophils.percent, d.nrbc_per_100, *(s.percent for s in d.shares.values())]).all()
    assert d.flags == ("insufficient: 0 white cells counted, 200 asked for",)


def test_fewer_nucleated_red_cells_than_the_rule_correct_nothing():
    assert count(["lymphocyte"] * 100 + ["erythroblast"] * 4, wbc=10).corrected_wbc is None


def test_clinical_order():
    assert WHITE_NAMES == (
        "blast", "promyelocyte", "myelocyte", "metamyelocyte", "band_neutrophil", "segmented_neutrophil",
        "eosinophil", "basophil", "monocyte", "lymphocyte",
    )  # fmt: skip
    assert differential.LOINC["blast"] == "26446-5"


def test_rules_from_a_file(tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text("left_shift_band_percent = 10\n[ranges]\nmonocyte = [2, 12]\n")
    rules = Rules.from_toml(path)
    assert (
        rules.left_shift_band_percent == 10
        and rules.ranges["monocyte"] == (2, 12)
        and rules.ranges["basophil"] == (0, 2)
    )
    for bad in (
        "nonsense = 1",
        "[ranges]\nblasts = [0, 1]",
        "[ranges]\nmonocyte = [9, 1]",
        "left_shift_band_percent = 'x'",
        "= =",
    ):
        path.write_text(bad)
        with pytest.raises(UsageError, match="rules.toml"):
            Rules.from_toml(path)


# --- measures and explanations -----------------------------------------------------------------------------------


def reading_of(**about):
    cells = cells_at([(100, 100)], about.pop("diameter", 100), **about)
    return read_cells(cells, measure(cells, 0.1, np.full(50, 7.0)), (1000, 1000), 0.5)[0]


def test_areas_and_ratios_of_a_disc():
    m = measure(cells_at([(0, 0)], 100), 0.1, np.full(50, 5.0))
    assert m.cell_area_um2[0] == pytest.approx(np.pi * 25, rel=0.01)
    assert m.nucleus_fraction[0] == pytest.approx(0.36, abs=0.01)
    assert m.nc_ratio[0] == pytest.approx(0.36 / 0.64, abs=0.02)
    assert m.diameter_um[0] == pytest.approx(10, rel=0.01) and m.size_vs_rbc[0] == pytest.approx(2, rel=0.01)
    assert measure(cells_at([(0, 0)], 100), 0.1, np.full(5, 5.0)).rbc_diameter_um == NORMAL_RBC_UM


def test_a_sentence_reads_as_a_morphologist_would_say_it():
    r = reading_of(classes="segmented_neutrophil", confidence=0.97,
                   states={"granularity": "fine", "nucleus_shape": "multilobed",
                           "cytoplasm_colour": "light_blue"})  # fmt: skip
    assert r.explanation == (
        "Segmented neutrophil (confidence 0.97): multilobed (segmented) nucleus, fine granules, "
        "pale or light blue cytoplasm; small, 10.0 µm across, 1.4 times a red cell; "
        "nucleus/cytoplasm area ratio 0.56 (nucleus 36 % of the cell), abundant cytoplasm."
    )
    assert r.reasons == () and r.class_name == "segmented_neutrophil"


def test_an_unsure_cell_is_unidentified_and_says_between_what():
    r = reading_of(classes="monocyte", confidence=0.4)
    assert r.class_name == "unidentified" and r.explanation.startswith("Unidentified: a monocyte (0.40) or a")
    assert "low confidence" in r.reasons[0]


def test_a_contradicting_explanation_goes_to_review_and_keeps_its_class():
    r = reading_of(classes="lymphocyte", states={"granularity": "coarse"})
    assert r.class_name == "lymphocyte" and r.reasons == (
        "explanation contradicts class: coarse granules in a lymphocyte",
    )
    assert "contradicts" in reading_of(classes="eosinophil", states={"granularity": "fine"}).reasons[0]
    assert "in an eosinophil" in reading_of(classes="eosinophil", states={"granularity": "fine"}).reasons[0]


def test_odd_sizes_and_the_slides_edge_go_to_review():
    assert "unusual size (4.0 µm across)" in reading_of(diameter=40).reasons
    cells = cells_at([(0, 50)], 100)
    assert (
        "cut by the edge of the slide"
        in read_cells(cells, measure(cells, 0.1, np.zeros(0)), (1000, 1000), 0.5)[0].reasons
    )


def test_contradictions_speak_of_the_vocabulary():
    states = {a.name: a.states for a in ATTRIBUTES}
    for name, rules in CONTRADICTIONS.items():
        assert name in CLASS_NAMES
        assert all(set(s) <= set(states[a]) and set(s) != set(states[a]) for a, s in rules.items())
