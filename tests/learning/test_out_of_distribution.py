"""What looks unlike the known cells is flagged, by weights that can tell; nothing else changes."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_cells import cells_at
from PIL import Image
from tiny_network import tiny_weights

from hemax_batch.cells.classify import classify_cells
from hemax_batch.cells.measure import measure_cells
from hemax_batch.learning.data.examples import CellLabel, Example
from hemax_batch.learning.evaluation import ood_evaluation
from hemax_batch.learning.evaluation.metrics import is_fitting_half
from hemax_batch.learning.evaluation.ood_evaluation import (
    CORRUPTIONS,
    fit_ood_detector,
    measure_ood,
)
from hemax_batch.model import checkpoint
from hemax_batch.model.out_of_distribution import (
    COLOUR_FEATURES,
    OodDetector,
    box_mean_features,
    colour_features,
)
from hemax_batch.model.predictor import Predictor
from hemax_batch.records import Cells, PatchBatch, RegionResult
from hemax_batch.results.region_file import decode_region, encode_region

SIDE, MPP = 64, 0.12


class Described:
    """A network that finds one cell in the middle, and looks at its patch's mean colour and contrast."""

    card = SimpleNamespace(mpp=MPP, patch_px=SIDE, min_confidence=0.5)
    ood_detector = None

    def __call__(self, batch: PatchBatch, mpp: float, size=None):
        pixels = batch.pixels[0].astype(float)
        looks = np.concatenate(
            [pixels.mean((1, 2)), pixels.std((1, 2)), [np.abs(np.diff(pixels)).mean()]]
        )
        told = (
            np.zeros(1, np.float32)
            if self.ood_detector is None
            else self.ood_detector.score(looks[None])
        )
        return SimpleNamespace(
            cells=replace(cells_at([(SIDE // 2 - 10, SIDE // 2 - 10)], 20), ood_score=told)
        )


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Examples of a source each of pink cells and of green ones, whose pictures differ as pictures do."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    made: dict[str, list[Example]] = {"pink": [], "green": []}
    for source, colour, count in (("pink", (200, 130, 170), 420), ("green", (120, 200, 130), 30)):
        for i in range(count):
            tone = np.array(colour) + rng.normal(0, 6, 3)
            image = np.clip(
                tone + rng.normal(0, 12, (SIDE, SIDE, 3)) * rng.uniform(0.8, 1.2), 0, 255
            )
            path = folder / f"{source}{i}.png"
            Image.fromarray(image.astype(np.uint8)).save(path)
            made[source].append(
                Example(str(path), MPP, source, "val", (CellLabel(None, ("monocyte",)),))
            )
    return made


@pytest.mark.slow
def test_the_limit_keeps_known_cells_and_what_is_strange_exceeds_it(pictures):
    predictor = Described()
    predictor.ood_detector = fit_ood_detector(predictor, pictures["pink"])
    unlabelled = [replace(e, cells=()) for e in pictures["green"]]
    told = measure_ood(predictor, pictures["pink"], unlabelled)
    known = told["known cells flagged"]["all"]
    assert known["value"] < 0.05 and known["n"] == min(
        sum(not is_fitting_half(e.path) for e in pictures["pink"]), ood_evaluation.KNOWN_CELLS
    )
    strange = told["strange cells flagged"]
    assert strange["green (given as strange)"] == pytest.approx(
        {"value": 1, "low": 1, "high": 1, "n": 30}
    )
    assert (
        set(CORRUPTIONS) < set(strange)
        and strange["colours inverted"]["value"] > 0.95 < strange["noise (σ 40)"]["value"]
    )
    either = told["strange cells flagged or unidentified"]
    assert all(either[name]["value"] >= strange[name]["value"] for name in strange)


def test_too_few_cells_are_nothing_known_and_nothing_is_measured(pictures):
    predictor = Described()
    assert (
        fit_ood_detector(predictor, pictures["pink"][:90]) is None
        and predictor.ood_detector is None
    )
    assert measure_ood(predictor, pictures["pink"][:90]) == {}


def test_distances_are_mahalanobis_distances():
    rng = np.random.default_rng(1)
    features = rng.normal(0, 1, (4000, 3)) @ np.array([[2.0, 0, 0], [1, 0.5, 0], [0, 0.3, 4]]) + [
        5,
        -1,
        2,
    ]
    of = ood_evaluation._gaussian(features)
    away = features[:20] - features.mean(0)
    slow = [np.sqrt(d @ np.linalg.inv(np.cov(features.T, bias=True)) @ d) for d in away]
    assert of.score(features[:20]) == pytest.approx(slow, rel=0.03)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.floats(-40, 200)] * 4), min_size=1, max_size=4), st.integers(0, 9))
def test_box_means_are_those_of_the_places_that_a_box_reaches_into(corners, seed):
    of_map = np.random.default_rng(seed).normal(0, 1, (3, 5, 8)).astype(np.float32)
    boxes = np.array([(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in corners])
    found = box_mean_features(of_map, boxes, (128, 80))
    for (x0, y0, x1, y1), mean in zip(boxes, found, strict=True):
        inside = [
            of_map[:, y, x]
            for y in range(5)
            for x in range(8)
            if x * 16 < x1 and (x + 1) * 16 > x0 and y * 16 < y1 and (y + 1) * 16 > y0
        ]
        if inside:
            assert mean == pytest.approx(np.mean(inside, 0), abs=1e-5)
        else:
            assert np.isfinite(mean).all()  # outside the patch: its nearest place


def known_of(d: int, scale: float = 1.0) -> OodDetector:
    return OodDetector(np.zeros(d, np.float32), np.eye(d, dtype=np.float32) * np.float32(scale))


@pytest.mark.slow
def test_a_checkpoint_keeps_what_is_known_and_one_without_says_nothing(tmp_path):
    plain = tiny_weights(tmp_path)
    model, card = checkpoint.load(plain)
    assert checkpoint.load_ood_detector(plain) is None
    kept = tmp_path / "kept.safetensors"
    known = known_of(112, 0.3)
    checkpoint.save(
        model,
        kept,
        mpp=card.mpp,
        patch_px=card.patch_px,
        temperature=1.0,
        min_confidence=0.1,
        trained=card.trained,
        metrics={},
        ood_detector=known,
    )
    again = checkpoint.load_ood_detector(kept)
    assert np.array_equal(again.whitening, known.whitening) and np.array_equal(
        again.centre, known.centre
    )
    assert kept.stat().st_size - plain.stat().st_size < 60_000
    for name, tensor in checkpoint.load(kept)[0].state_dict().items():
        assert torch.equal(
            tensor,
            model.state_dict()[name].half().float() if tensor.is_floating_point() else tensor,
        )
    checkpoint.average_weights([kept, kept], tmp_path / "mean.safetensors")
    assert (
        checkpoint.load_ood_detector(tmp_path / "mean.safetensors") is None
    )  # it was fitted to other weights


@pytest.mark.slow
def test_colour_features_are_those_of_the_box_and_of_the_patch():
    pixels = np.full((3, 64, 64), 255, np.uint8)
    pixels[0, 16:48, 16:48] = 25  # red light is absorbed inside the box: density log10(256 / 26)
    cell, glass = colour_features(pixels, np.array([[16, 16, 48, 48], [0, 0, 16, 16]]))
    assert cell[:3] == pytest.approx([np.log10(256 / 26), 0, 0], abs=1e-5)
    assert glass[:6] == pytest.approx(np.zeros(6), abs=1e-6)
    assert np.array_equal(cell[6:], glass[6:]) and len(cell) == COLOUR_FEATURES
    assert colour_features(pixels, np.zeros((0, 4))).shape == (0, COLOUR_FEATURES)


def test_each_cell_is_told_alone_and_nothing_else_changes(tmp_path):
    path = tiny_weights(tmp_path, no_cell_bias=-1.0, seed=3)
    plain, knowing = Predictor.load(path), Predictor.load(path)
    knowing.ood_detector = known_of(112)
    pixels = np.random.default_rng(0).integers(60, 250, (3, 3, 128, 128), dtype=np.uint8)
    batch = PatchBatch(pixels, np.zeros((3, 2)), 1.0)
    before, after = plain(batch, 0.3).cells, knowing(batch, 0.3).cells
    assert len(before) > 0 and (before.ood_score == 0).all() and (after.ood_score > 0).all()
    assert np.array_equal(before.class_probs, after.class_probs) and before.masks == after.masks
    alone = [
        knowing(PatchBatch(pixels[i : i + 1], np.zeros((1, 2)), 1.0), 0.3).cells.ood_score
        for i in (2, 0, 1)
    ]
    assert np.array_equal(np.concatenate([alone[1], alone[2], alone[0]]), after.ood_score)
    with ThreadPoolExecutor(3) as threads:  # of one worker, with one network
        asked = [
            threads.submit(
                knowing, PatchBatch(np.ascontiguousarray(p[None]), np.zeros((1, 2)), 1.0), 0.3
            )
            for p in pixels
        ]
        assert np.array_equal(
            np.concatenate([a.result().cells.ood_score for a in asked]), after.ood_score
        )
    assert not knowing.model.backbone._forward_hooks


def test_an_unfamiliar_cell_is_unidentified_and_goes_to_review():
    cells = cells_at([(100, 100), (400, 400)], 100, classes="monocyte")
    cells = replace(cells, ood_score=np.array([1.0, 1.62], np.float32))
    usual, odd = classify_cells(
        cells, measure_cells(cells, 0.1, np.full(40, 7.0)), (1000, 1000), 0.5
    )
    assert not usual.review and usual.class_name == "monocyte"
    assert odd.class_name == "unidentified" and odd.confidence == usual.confidence
    assert odd.explanation.startswith(
        "Unidentified: looks most like a monocyte (0.90), but is unlike the cells that the network knows"
    )
    assert odd.reasons == (
        "unlike the cells that the network knows (1.6 times the distance that 99 in 100 of those keep within)",
    )


def test_it_is_kept_with_its_cell_through_the_journal():
    cells = replace(cells_at([(1, 1), (9, 9)], 5), ood_score=np.array([0.4, 2.5], np.float32))
    back = decode_region(
        encode_region(RegionResult(0, cells, np.zeros(0, np.float32), 2, 2, 0, 0))
    ).cells
    assert back.ood_score.tolist() == cells.ood_score.tolist()
    assert Cells.concat([back.take([1]), Cells.empty()]).ood_score.tolist() == [2.5]
