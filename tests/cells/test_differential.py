"""The differential against published tables, and its flags against its rules."""

import dataclasses
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from checkout import ROOT
from click.testing import CliRunner
from scipy import stats

from hemax_batch.cells import differential
from hemax_batch.cells.differential import (
    NOT_ASSESSED,
    clopper_pearson,
    count_differential,
    not_assessed,
)
from hemax_batch.cells.false_calls import FalseCalls
from hemax_batch.cells.rules import SOURCES, Rules
from hemax_batch.cli.app import main
from hemax_batch.errors import UsageError
from hemax_batch.outputs.differential_json import rules_from_record, write_differential
from hemax_batch.settings import RunSettings
from hemax_batch.vocabulary import CLASS_NAMES, WHITE_NAMES


def flagged(d) -> dict[str, str]:
    return {flag.rule: flag.words for flag in d.flags}


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


@pytest.mark.parametrize(
    ("percent", "of_100", "of_200", "of_1000"),
    [
        (0, (0, 4), (0, 2), (0, 1)), (1, (0, 6), (0, 4), (0, 2)), (2, (0, 8), (0, 6), (1, 4)),
        (5, (1, 12), (2, 10), (3, 7)), (10, (4, 18), (6, 16), (8, 13)), (20, (12, 30), (14, 27), (17, 23)),
        (30, (21, 40), (23, 37), (27, 33)), (50, (39, 61), (42, 58), (46, 54)),
    ],
)  # fmt: skip
def test_limits_rounded_outward_are_rumkes_table(percent, of_100, of_200, of_1000):
    for n, expected in ((100, of_100), (200, of_200), (1000, of_1000)):
        low, high = clopper_pearson(percent * n // 100, n)
        assert (math.floor(100 * low), math.ceil(100 * high)) == expected


def test_limits_equal_scipys_exactly():
    rng = np.random.default_rng(0)
    for n in (1, 2, 7, 50, 100, 200, 400, 1000):
        for k in {0, n, *rng.integers(0, n + 1, 40).tolist()}:
            exact = stats.binomtest(k, n).proportion_ci(0.95, method="exact")
            assert clopper_pearson(k, n) == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_limits_of_nothing_and_of_nonsense():
    assert clopper_pearson(0, 0) == (0.0, 1.0)
    for k, n in ((-1, 5), (6, 5), (1, 0)):
        with pytest.raises(ValueError, match="between 0 and its total"):
            clopper_pearson(k, n)


def test_none_seen_in_200_cells_at_one_per_cent_happens_13_times_in_100():
    assert stats.binom.pmf(0, 200, 0.01) == pytest.approx(0.13, abs=0.005)
    assert clopper_pearson(0, 200)[1] > 0.01  # so the limits of 0/200 must hold 1 %


def test_denominator_is_white_cells_only():
    d = count_differential(
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
    assert not d.sufficient
    assert flagged(d) == {
        "sufficiency": "insufficient: 100 white cells counted, 200 asked for",
        "nrbc_count": "6 nucleated red cells seen",
        "left_shift_band_percent": "left shift: band neutrophils 10.0 % (over 5 %)",
        "nrbc_correction_per_100": "6.0 nucleated red cells per 100 white cells: white count corrected from 10.60 to 10.00",
        "range_band_neutrophil": "band neutrophil 10.0 % (above 0-5 %, adults, ARUP)",
    }


def test_no_cells_are_no_percentages():
    d = count_differential([])
    assert np.isnan(
        [d.neutrophils.percent, d.nrbc_per_100, *(s.percent for s in d.shares.values())]
    ).all()
    assert flagged(d) == {"sufficiency": "insufficient: 0 white cells counted, 200 asked for"}


def test_nucleated_red_cells_alone_have_no_white_cells_to_be_counted_against():
    d = count_differential(["erythroblast"] * 3, wbc=5.0)
    assert np.isnan(d.nrbc_per_100) and d.corrected_wbc is None and "nrbc_count" in flagged(d)


def test_a_names_that_is_no_class_is_refused():
    with pytest.raises(UsageError, match="'smear': no class; known: blast"):
        count_differential(["lymphocyte", "smear"])


def test_a_reviewers_classes_are_counted_where_they_belong():
    d = count_differential(
        ["lymphocyte"] * 8
        + ["variant_lymphocyte", "plasma_cell"]
        + ["smudge"] * 3
        + ["artefact", "platelet", "erythroblast"]
    )
    assert d.n_white == 10 and list(d.shares)[-2:] == ["variant_lymphocyte", "plasma_cell"]
    assert d.share("plasma_cell").percent == 10.0 and d.outside == {
        "platelet": 1,
        "smudge": 3,
        "artefact": 1,
    }
    assert d.nrbc == 1
    assert list(count_differential(["lymphocyte"]).shares) == list(WHITE_NAMES)


def test_one_blast_is_flagged_and_said_in_the_singular():
    names = ["lymphocyte"] * 300 + ["blast"]
    assert flagged(count_differential(names))["blast_count"] == "1 blast seen"
    assert "blast_count" not in flagged(count_differential(names, rules=Rules(blast_count=0)))
    assert "blast_count" not in flagged(count_differential(names, rules=Rules(blast_count=2)))


def flags_with(error: FalseCalls | None, blasts: int) -> dict[str, str]:
    """The flags of 200 cells of which some are called blast, beside what error would give."""
    names = ["segmented_neutrophil"] * 120 + ["lymphocyte"] * (80 - blasts) + ["blast"] * blasts
    return flagged(count_differential(names, false_calls={"blast": error} if error else {}))


def test_the_blast_flag_compares_the_count_with_what_error_explains():
    error = FalseCalls(0.84, 0, 3)
    assert flags_with(error, 4)["blast_count"] == (
        "4 blasts seen, more than error explains (0.8 expected by error, 95 % 0 to 3)"
    )
    few = flags_with(error, 3)
    assert "blast_count" not in few and few["blast_within_error"] == (
        "3 blasts seen, within the error expected: look at the cells (0.8 expected by error, 95 % 0 to 3)"
    )
    assert flags_with(error, 0).keys() == flags_with(None, 0).keys() == set()
    assert flags_with(None, 1)["blast_count"] == (
        "1 blast seen; the number expected by error is not known"
    )


def test_smudge_cells_are_given_per_100_white_cells():
    d = count_differential(["lymphocyte"] * 40 + ["smudge"] * 10)
    assert (d.n_white, d.smudge, d.smudge_per_100) == (40, 10, 25.0)
    assert np.isnan(count_differential(["smudge"]).smudge_per_100)


def test_plasma_cells_and_many_variant_lymphocytes_are_flagged():
    names = ["segmented_neutrophil"] * 93 + ["variant_lymphocyte"] * 6 + ["plasma_cell"]
    flags = flagged(count_differential(names))
    assert flags["plasma_cell_count"] == "1 plasma cell seen"
    assert flags["variant_lymphocyte_percent"] == "variant lymphocytes 6.0 % (over 5 %)"
    lenient = Rules(plasma_cell_count=2, variant_lymphocyte_percent=6)
    assert not {"plasma_cell_count", "variant_lymphocyte_percent"} & set(
        flagged(count_differential(names, rules=lenient))
    )


def test_a_differential_that_is_not_reportable_says_why_first():
    d = count_differential(["lymphocyte"] * 200, not_reportable=("the reason",))
    assert not d.reportable and d.flags[0].rule == "outside" and d.flags[0].words == "the reason"
    assert count_differential(["lymphocyte"] * 200).reportable


def test_classes_that_the_weights_do_not_know_are_not_assessed():
    assert not_assessed() == NOT_ASSESSED
    assert not_assessed(("variant_lymphocyte", "smudge")) == (
        *NOT_ASSESSED,
        "variant lymphocytes",
        "smudge cells",
    )


def test_limits_of_the_rules_themselves_are_not_flagged():
    d = count_differential(
        ["metamyelocyte"] * 2
        + ["band_neutrophil"] * 5
        + ["segmented_neutrophil"] * 60
        + ["lymphocyte"] * 33,
        100,
    )
    assert d.flags == () and d.sufficient


def test_many_unidentified_cells_are_flagged():
    d = count_differential(["lymphocyte"] * 80 + ["unidentified"] * 20, 50)
    assert flagged(d)["unidentified_percent"] == "20 of 100 cells unidentified"


def test_every_threshold_has_a_source_and_platelets_are_not_assessed():
    assert set(SOURCES) == set(Rules.__dataclass_fields__) - {"ranges_of", "classes"}
    assert any("platelet clumps" in what for what in NOT_ASSESSED) and "parasites" in NOT_ASSESSED


def test_fewer_nucleated_red_cells_than_the_rule_correct_nothing():
    assert (
        count_differential(["lymphocyte"] * 100 + ["erythroblast"] * 4, wbc=10).corrected_wbc
        is None
    )


def test_clinical_order():
    assert WHITE_NAMES == (
        "blast",
        "promyelocyte",
        "myelocyte",
        "metamyelocyte",
        "band_neutrophil",
        "segmented_neutrophil",
        "eosinophil",
        "basophil",
        "monocyte",
        "lymphocyte",
        "variant_lymphocyte",
        "plasma_cell",
    )
    assert tuple(count_differential([]).shares) == WHITE_NAMES
    assert differential.LOINC == {
        "basophil": "30180-4",
        "blast": "26446-5",
        "eosinophil": "26450-7",
        "monocyte": "26485-3",
        "band_neutrophil": "26508-2",
        "variant_lymphocyte": "13046-8",
        "plasma_cell": "13047-6",
    } and set(differential.LOINC) <= set(CLASS_NAMES)


def test_rules_from_a_file(tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text("left_shift_band_percent = 10\n[ranges]\nmonocyte = [2, 12]\n")
    rules = Rules.from_toml(path)
    assert (
        rules.left_shift_band_percent == 10
        and rules.ranges["monocyte"] == (2, 12)
        and rules.ranges["basophil"] == (0, 2)
        and rules.ranges_of == "rules.toml"
    )
    assert any(
        "(below 2-12 %, rules.toml)" in flag.words
        for flag in count_differential(["lymphocyte"] * 9, rules=rules).flags
    )
    path.write_text("blast_count = 3\n")
    assert Rules.from_toml(path) == Rules(blast_count=3)
    for bad in (
        "nonsense = 1",
        "[ranges]\nblasts = [0, 1]",
        "[ranges]\nmonocyte = [9, 1]",
        "[ranges]\nmonocyte = [1, 'x']",
        "[ranges]\nmonocyte = 4",
        "ranges = 4",
        "ranges_of = 4",
        "left_shift_band_percent = 'x'",
        "left_shift_band_percent = nan",
        "nrbc_count = true",
        "blast_count = -1",
        "= =",
    ):
        path.write_text(bad)
        with pytest.raises(UsageError, match="rules.toml"):
            Rules.from_toml(path)


def test_age_groups_have_their_own_ranges(tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text(
        'ranges_of = "L"\n[ranges]\nlymphocyte = [18, 45]\n[age_groups."1-6 years"]\nlymphocyte = [30, 65]\n'
    )
    adults, children = Rules.from_toml(path), Rules.from_toml(path, "1-6 years")
    assert (adults.ranges["lymphocyte"], adults.ranges_of) == ((18, 45), "L")
    assert (children.ranges["lymphocyte"], children.ranges_of) == ((30, 65), "L, 1-6 years")
    assert children.ranges["basophil"] == adults.ranges["basophil"] == (0, 2)
    blood = ["lymphocyte"] * 60 + ["segmented_neutrophil"] * 40
    assert "range_lymphocyte" in flagged(count_differential(blood, rules=adults))
    assert "range_lymphocyte" not in flagged(count_differential(blood, rules=children))
    with pytest.raises(UsageError, match="no age group 'newborn'; there are '1-6 years'"):
        Rules.from_toml(path, "newborn")
    path.write_text("age_groups = 3")
    with pytest.raises(UsageError, match="expected tables"):
        Rules.from_toml(path)


def test_an_age_group_is_a_setting_that_changes_results(tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text("[age_groups.child]\nlymphocyte = [30, 65]\n")
    groups = (None, "child")
    prints = {
        RunSettings(rules=Rules.from_toml(path, g)).result_fingerprint("slide", "weights")
        for g in groups
    }
    assert len(prints) == 2
    slides = [str(tmp_path / "none.svs"), "--out", str(tmp_path / "out")]
    alone = CliRunner().invoke(main, ["run", *slides, "--age-group", "child"])
    assert alone.exit_code == 2 and "selects a table of --rules" in alone.output
    unknown = CliRunner().invoke(
        main, ["run", *slides, "--rules", str(path), "--age-group", "adult"]
    )
    assert (
        unknown.exit_code == 2
        and "there are 'child'" in unknown.output
        and not (tmp_path / "out").exists()
    )


def test_rules_come_back_from_the_differential_they_made(tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text(
        'blast_count = 3\nnrbc_correction_per_100 = 10\nranges_of = "L"\n'
        "[ranges]\nblast = [0, 1]\nmonocyte = [2.5, 12]\n[age_groups.child]\nneutrophils = [20, 60]\n"
    )
    red = SimpleNamespace(rbc_diameter_um=7.2, rbc_measured=40, rbc_is_assumed=False)
    for rules in (Rules(), Rules.from_toml(path), Rules.from_toml(path, "child")):
        write_differential(
            tmp_path / "d.json",
            "s",
            "s.svs",
            count_differential(["lymphocyte"], rules=rules),
            red,
            0,
            (),
        )
        assert rules_from_record(json.loads((tmp_path / "d.json").read_text())) == rules


def test_the_example_holds_the_defaults():
    example = Rules.from_toml(ROOT / "examples" / "rules.toml")
    assert dataclasses.replace(example, ranges_of=Rules().ranges_of) == Rules()
