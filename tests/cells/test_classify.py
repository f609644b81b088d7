"""Explanations: what is said of a cell, and when a person must look."""

from dataclasses import replace

import numpy as np
import pytest
import reference_classify
from hypothesis import given, settings
from hypothesis import strategies as st
from made_cells import cells_at, disc

from hemax_batch.cells.classify import classify_cells
from hemax_batch.cells.explain import _either
from hemax_batch.cells.measure import measure_cells
from hemax_batch.cells.morphology import CONTRADICTIONS, NUCLEUS_FRACTION
from hemax_batch.mask_packing import pack_mask
from hemax_batch.vocabulary import (
    ATTRIBUTES,
    CLASS_NAMES,
    N_ATTRIBUTE_STATES,
    N_CLASSES,
    UNIDENTIFIED,
    attribute_slices,
)

SEGMENTED = {"granularity": "fine", "nucleus_shape": "multilobed", "cytoplasm_colour": "light_blue"}
UNTAUGHT = ("chromatin", "nucleol", "auer", "vacuol")


def read(cells, rbc=50, min_confidence=0.5, mpp=0.1):
    return next(
        iter(
            classify_cells(
                cells, measure_cells(cells, mpp, np.full(rbc, 7.0)), (1000, 1000), min_confidence
            )
        )
    )


def reading_of(**about):
    return read(cells_at([(100, 100)], about.pop("diameter", 100), **about))


def unsure(attribute: str, probs: list[float], **about):
    cells = cells_at([(100, 100)], 100, **about)
    attributes = cells.attribute_probs.copy()
    attributes[0, attribute_slices()[attribute]] = probs
    return read(replace(cells, attribute_probs=attributes))


def with_nucleus(share_of_diameter: float, **about):
    cells = cells_at([(100, 100)], 100, **about)
    return read(replace(cells, masks=(pack_mask(disc(100, share_of_diameter)),)))


def test_a_sentence_reads_as_a_morphologist_would_say_it():
    r = reading_of(classes="segmented_neutrophil", confidence=0.97, states=SEGMENTED)
    assert r.explanation == (
        "Segmented neutrophil (confidence 0.97): multilobed (segmented) nucleus, fine granules, "
        "pale or light blue cytoplasm; small, 10.0 µm across, 1.4 times a red cell; "
        "nucleus/cytoplasm area ratio 0.56 (nucleus 36 % of the cell), abundant cytoplasm."
    )
    assert r.reasons == () and not r.review and r.class_name == "segmented_neutrophil"


def test_a_basophils_ratio_is_said_to_be_doubtful():
    said = reading_of(classes="basophil").explanation
    assert (
        said.endswith("(nucleus 36 % of the cell); granules may hide the nucleus's border.")
        and "abundant" not in said
    )
    assert "hide" not in reading_of(classes="eosinophil").explanation


def test_a_size_that_the_ruler_contradicts_is_left_to_the_figures():
    for seen, diameter, said in (
        ("large", 100, "cytoplasm; 10.0 µm"),
        ("small", 100, "; small, 10.0 µm"),
        ("large", 150, "; large, 15.0 µm"),
        ("small", 150, "cytoplasm; 15.0 µm"),
    ):
        assert (
            said
            in reading_of(states=SEGMENTED | {"size_vs_rbc": seen}, diameter=diameter).explanation
        )


def test_a_less_sure_class_names_the_next():
    r = reading_of(classes="monocyte", confidence=0.7)
    assert r.explanation.startswith("Monocyte (confidence 0.70; otherwise blast, 0.02): ")


def test_an_unsure_cell_is_unidentified_and_says_between_what_and_why():
    cells = cells_at([(100, 100)], 100, classes="monocyte", confidence=0.4)
    probs = cells.class_probs.copy()
    probs[0, :] = 0
    probs[0, [CLASS_NAMES.index(name) for name in ("monocyte", "eosinophil", "blast")]] = (
        0.45,
        0.4,
        0.15,
    )
    r = read(replace(cells, class_probs=probs))
    assert r.class_name == "unidentified" and r.confidence == pytest.approx(0.45)
    assert r.explanation.startswith(
        "Unidentified: most like a monocyte (0.45) or an eosinophil (0.40), below the 0.50 asked for: round nucleus"
    )
    assert r.reasons == ("low confidence (0.45 for monocyte, 0.40 for eosinophil)",) and r.review


def test_the_confidence_asked_for_itself_is_enough():
    cells = cells_at([(100, 100)], 100, classes="monocyte", confidence=0.75)
    assert read(cells, min_confidence=0.75).class_name == "monocyte"
    assert read(cells, min_confidence=0.76).class_name == "unidentified"


def test_a_contradicting_explanation_goes_to_review_and_keeps_its_class():
    r = reading_of(classes="lymphocyte", states={"granularity": "coarse"})
    assert r.class_name == "lymphocyte" and r.reasons == (
        "explanation contradicts class: coarse granules in a lymphocyte",
    )
    (only,) = reading_of(
        classes="eosinophil", states={"granularity": "agranular", "nucleus_shape": "bilobed"}
    ).reasons
    assert only == "explanation contradicts class: no granules in an eosinophil"


@pytest.mark.parametrize(("sure", "contradicts"), [(0.69, False), (0.71, True)])
def test_only_a_sure_attribute_contradicts(sure, contradicts):
    r = unsure("granularity", [1 - sure, 0, sure], classes="lymphocyte")
    assert r.review == contradicts


def test_a_segmented_neutrophil_may_have_a_band_nucleus():
    """WBCAtt's experts call 41 % of the PBC's segmented neutrophils' nuclei bands."""
    assert not reading_of(
        classes="segmented_neutrophil", states={**SEGMENTED, "nucleus_shape": "band"}
    ).review
    assert reading_of(
        classes="segmented_neutrophil", states={**SEGMENTED, "nucleus_shape": "round"}
    ).review


def test_an_unsure_attribute_is_said_to_be_so():
    shape = [a for a in ATTRIBUTES if a.name == "nucleus_shape"][0].states
    assert shape[:2] == ("round", "indented")
    assert (
        "): round or indented (kidney-shaped) nucleus, "
        in unsure("nucleus_shape", [0.5, 0.4, 0.1, 0, 0, 0]).explanation
    )
    assert (
        "): probably a round nucleus, "
        in unsure("nucleus_shape", [0.5, 0.1, 0.1, 0.1, 0.1, 0.1]).explanation
    )
    assert (
        "): nucleus of unclear shape, "
        in unsure("nucleus_shape", [0.3, 0.2, 0.2, 0.1, 0.1, 0.1]).explanation
    )
    assert ", fine granules or none, " in unsure("granularity", [0.4, 0.5, 0.1]).explanation
    assert ", no granules or coarse ones, " in unsure("granularity", [0.5, 0.1, 0.4]).explanation
    assert ", fine or coarse granules, " in unsure("granularity", [0.1, 0.5, 0.4]).explanation
    assert (
        ", probably pale or light blue cytoplasm; "
        in unsure("cytoplasm_colour", [0.5, 0.4, 0.1]).explanation
    )
    assert "cytoplasm; 10.0 µm across" in unsure("size_vs_rbc", [0.5, 0.5]).explanation


@pytest.mark.parametrize(("diameter", "odd"), [(48, True), (52, False), (298, False), (303, True)])
def test_odd_sizes_go_to_review(diameter, odd):
    assert (
        any(reason.startswith("unusual size") for reason in reading_of(diameter=diameter).reasons)
        == odd
    )


@pytest.mark.parametrize("place", [(0, 50), (50, 0), (900, 50), (50, 900)])
def test_a_cell_at_the_slides_edge_goes_to_review(place):
    assert read(cells_at([place], 100)).reasons == ("cut by the edge of the slide",)


def test_an_implausible_ratio_goes_to_review():
    r = with_nucleus(0.95, classes="segmented_neutrophil", states=SEGMENTED)
    assert r.reasons == (
        "unusual N:C (nucleus 90 % of the cell; for a segmented neutrophil 15 to 70 %)",
    )
    assert "scant rim of cytoplasm" in r.explanation
    assert with_nucleus(0.9).reasons == ()  # a lymphocyte's usual
    unidentified = with_nucleus(0.2, confidence=0.4)
    assert (
        unidentified.reasons[1]
        == "unusual N:C (nucleus 4 % of the cell; for a nucleated cell 12 to 98 %)"
    )


def test_a_cell_without_nucleus_or_cytoplasm_is_said_to_be_so():
    none = with_nucleus(0.0)
    assert none.reasons == ("no nucleus found",) and none.explanation.endswith(
        "; no nucleus was outlined."
    )
    assert none.class_name == "unidentified" and none.confidence == pytest.approx(0.9)
    full = with_nucleus(1.0)
    assert full.class_name == "lymphocyte"
    assert (
        full.explanation.endswith("; the nucleus fills the cell; no cytoplasm was outlined.")
        and full.review
    )


def test_an_assumed_red_cell_is_said_to_be_assumed():
    assert (
        "times a red cell of normal size (7.3 µm: too few were measured)"
        in read(cells_at([(100, 100)], 100), rbc=3).explanation
    )


def test_tables_speak_of_the_vocabulary():
    states = {a.name: a.states for a in ATTRIBUTES}
    assert set(CONTRADICTIONS) == set(NUCLEUS_FRACTION) == set(CLASS_NAMES) - {"platelet", "smudge"}
    for rules in CONTRADICTIONS.values():
        assert all(set(s) <= set(states[a]) and set(s) != set(states[a]) for a, s in rules.items())
    assert all(0 < low < high < 1 for low, high in NUCLEUS_FRACTION.values())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.0, 1.0))
def test_whatever_the_network_says_the_sentence_is_whole(seed, nucleus):
    random = np.random.default_rng(seed)
    cells = cells_at([(100, 100)], 100)
    attributes = np.concatenate([random.dirichlet(np.full(len(a.states), 0.5)) for a in ATTRIBUTES])
    assert attributes.shape == (N_ATTRIBUTE_STATES,)
    cells = replace(
        cells,
        class_probs=random.dirichlet(np.full(N_CLASSES, 0.3), 1).astype(np.float32),
        attribute_probs=attributes[None].astype(np.float32),
        masks=(pack_mask(disc(100, nucleus)),),
    )
    r = read(cells)
    text = r.explanation
    assert text[0].isupper() and text.endswith(".") and text.count("(") == text.count(")")
    assert not any(
        bad in text for bad in ("  ", "nan", "inf", ", ,", " ,", ";;", ": ;", " a e", " an m", ",;")
    )
    assert not any(word in (text + "; ".join(r.reasons)).lower() for word in UNTAUGHT)


def test_two_states_of_one_noun_are_joined():
    assert _either("round nucleus", "bilobed nucleus") == "round or bilobed nucleus"


def test_a_tie_of_band_and_segmented_stays_a_neutrophil_for_review():
    cells = cells_at([(100, 100)], 100, "band_neutrophil", confidence=0.48)
    probs = np.full((1, N_CLASSES), 0.007, np.float32)
    probs[0, [CLASS_NAMES.index("band_neutrophil"), CLASS_NAMES.index("segmented_neutrophil")]] = (
        0.48,
        0.45,
    )
    cells = replace(cells, class_probs=probs)
    [reading] = classify_cells(
        cells, measure_cells(cells, 0.1, np.full(40, 7.2)), (1000, 1000), 0.6
    )
    assert reading.class_name == "band_neutrophil" and reading.reasons[0].startswith(
        "band or segmented neutrophil (0.4"
    )
    bare = replace(cells, masks=(pack_mask(disc(100, 0.0)),))
    [reading] = classify_cells(bare, measure_cells(bare, 0.1, np.full(40, 7.2)), (1000, 1000), 0.6)
    assert (
        reading.class_name == UNIDENTIFIED
        and "hardly any nucleus" in reading.explanation
        and reading.review
    )


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 60),
    st.sampled_from([0.3, 0.69, 1.0]),
    st.sampled_from([3, 50]),
)
def test_cells_are_read_as_one_after_the_other_would_be(seed, n, min_confidence, rbc):
    random = np.random.default_rng(seed)
    nuclei = random.choice([0.0, 0.2, 0.6, 0.95, 1.0], n)
    diameters = random.choice([4, 30, 90, 120], n)
    masks = tuple(
        pack_mask(disc(d, nucleus) * (random.random() > 0.05))
        for d, nucleus in zip(diameters, nuclei, strict=True)
    )
    cells = cells_at(random.integers(0, 910, (n, 2)), diameters.tolist())
    likely = random.choice([0.05, 0.3, 2.0])
    cells = replace(
        cells,
        class_probs=random.dirichlet(np.full(N_CLASSES, likely), n)
        .astype(np.float32)
        .reshape(n, N_CLASSES)
        .round(2),
        attribute_probs=np.concatenate(
            [
                random.dirichlet(np.full(len(a.states), likely), n).reshape(n, len(a.states))
                for a in ATTRIBUTES
            ],
            1,
        )
        .astype(np.float32)
        .round(1),
        masks=masks,
        ood_score=random.uniform(0, 1.2, n).astype(np.float32),
    )
    measures = measure_cells(cells, 0.1, np.full(rbc, 7.0))
    plain = reference_classify.read_cells(cells, measures, (1000, 1000), min_confidence)
    calls = classify_cells(cells, measures, (1000, 1000), min_confidence)
    assert list(calls) == plain and calls.names == [r.class_name for r in plain]
    assert calls.review.tolist() == [r.review for r in plain]
    explanations, reasons = calls.explain(slice(n // 3, n // 2))
    assert explanations == [r.explanation for r in plain[n // 3 : n // 2]]
    assert reasons == [r.reasons for r in plain[n // 3 : n // 2]]
