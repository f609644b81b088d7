"""Cells of which the network is unsure are looked at again in other views, and no others."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemax_batch import vocabulary
from hemax_batch.model import test_time_augmentation
from hemax_batch.model.network_output import NetworkOutput, NetworkProbabilities
from hemax_batch.model.predictor import Predictor
from hemax_batch.model.test_time_augmentation import UNSURE_BELOW, augment_unsure_cells
from hemax_batch.records import CENTRAL_CELL_UM, PatchBatch
from hemax_batch.synthetic import draw_cell_patch

MPP, SIDE = 0.12, 64


class Told:
    """A network that sees one cell, where its patch is darkest, and says of it what the patch's first pixels order:
    whatever lies at the top left decides, so that each view says something else."""

    def __init__(self):
        self.asked = []

    def __call__(self, pixels):
        self.asked.append(len(pixels))
        n, q, k = len(pixels), 2, vocabulary.N_CLASSES
        logits = np.zeros((n, q, k + 1), np.float32)
        logits[:, 1, -1] = 9.0  # the second query has nothing
        boxes = np.tile(np.array([1.0, 1, 2, 2], np.float32), (n, q, 1))
        for i, patch in enumerate(pixels):
            ys, xs = np.nonzero(patch[0] == patch[0].min())
            boxes[i, 0] = [xs.mean() + 0.5, ys.mean() + 0.5, 20, 16]
            logits[i, 0, int(patch[1, 0, 0])] = patch[2, 0, 0] / 10
            logits[i, 0, -1] = -9.0
        attributes = np.zeros((n, q, vocabulary.N_ATTRIBUTE_STATES), np.float32)
        attributes[:, 0, 0] = pixels[:, 2, 0, 0] / 10
        sure = np.tile([True, False], (n, 1))
        return NetworkOutput(
            logits,
            attributes,
            boxes,
            sure,
            np.zeros((n, 2, 16, 16), np.float32),
            np.zeros((n, 1, 2, 2), np.float32),
        )


def patch(corners, middle=(32, 32)):
    """A patch whose corners (top left, top right, bottom right) order (class, logit x 10), dark at `middle`."""
    pixels = np.full((3, SIDE, SIDE), 200, np.uint8)
    x, y = middle
    pixels[:, y - 1 : y + 1, x - 1 : x + 1] = 0
    for (row, column), (which, strength) in zip(((0, 0), (0, -1), (-1, -1)), corners, strict=True):
        pixels[1:, row, column] = which, strength
    return pixels


def seen(pixels, network, at_once=8):
    first = NetworkProbabilities.from_output(network(pixels), 1.0)
    return first, augment_unsure_cells(first, pixels, MPP, 1.0, network, at_once)


def test_an_unsure_cell_is_what_three_views_say_together():
    network, pixels = Told(), patch([(1, 30), (2, 40), (2, 30)])[None]
    first, then = seen(pixels, network)
    assert first.class_probs[0, 0].argmax() == 1 and first.class_probs[0, 0].max() < UNSURE_BELOW
    logits = np.zeros(vocabulary.N_CLASSES)
    logits[1], logits[2] = 3.0 / 3, (4.0 + 3.0) / 3
    expected = np.exp(logits) / np.exp(logits).sum()
    assert (
        np.allclose(then.class_probs[0, 0], expected, atol=1e-5)
        and then.class_probs[0, 0].argmax() == 2
    )
    for part in vocabulary.attribute_slices().values():
        assert np.allclose(then.attribute_probs[0, 0, part].sum(), 1, atol=1e-5)
    assert (
        then.attribute_probs[0, 0, 0] > first.attribute_probs[0, 0, 0]
    )  # 3, 4 and 3 tenths of a logit against 3
    assert np.array_equal(then.boxes, first.boxes) and np.array_equal(then.scores, first.scores)


@pytest.mark.parametrize("strength, middle", [(90, (32, 32)), (30, (54, 8))])
def test_what_is_sure_or_off_the_middle_is_not_looked_at_again(strength, middle, monkeypatch):
    monkeypatch.setattr(test_time_augmentation, "CENTRAL_CELL_UM", 2.0)
    network = Told()
    first, then = seen(patch([(1, strength), (2, 90), (2, 90)], middle)[None], network)
    assert then is first and network.asked == [1]


def test_temperature_does_not_decide_what_is_looked_at_again():
    pixels, network = (
        patch([(1, 48), (2, 60), (2, 60)])[None],
        Told(),
    )  # 0.90 as it is, far less at a temperature of 2
    for temperature in (1.0, 2.0):
        first = NetworkProbabilities.from_output(network(pixels), temperature)
        assert augment_unsure_cells(first, pixels, MPP, temperature, network, 8) is first
    assert first.class_probs[0, 0].max() < UNSURE_BELOW


def test_patches_are_asked_a_few_at_a_time_and_keep_apart():
    sure, unsure = (
        patch([(1, 90), (2, 90), (2, 90)]),
        [patch([(k, 30), (k + 1, 40), (k + 1, 30)]) for k in (1, 3, 5)],
    )
    together = np.stack([unsure[0], sure, *unsure[1:]])
    network = Told()
    _, then = seen(together, network, at_once=2)
    assert network.asked == [4, 2, 2, 1, 1]
    for i, alone in enumerate(together):
        assert np.array_equal(then.class_probs[i : i + 1], seen(alone[None], Told())[1].class_probs)


def test_a_cell_that_another_view_does_not_show_keeps_what_it_had(monkeypatch):
    monkeypatch.setattr(test_time_augmentation, "_SAME_IOU", 1.1)
    first, then = seen(patch([(1, 30), (2, 90), (2, 90)])[None], Told())
    assert np.allclose(then.class_probs, first.class_probs, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 61), st.integers(2, 61))
def test_a_box_turns_with_the_pixels(x, y):
    pixels = patch([(0, 0)] * 3, (x, y))[None]
    box = Told()(pixels).boxes_cxcywh[0, 0]
    for turn, back in test_time_augmentation._VIEWS:
        assert np.allclose(Told()(turn(pixels)).boxes_cxcywh[0, 0], back(box, (SIDE, SIDE)))


def between(seed, one, other, side):
    """Two drawn cells laid over each other: neither type, and the shipped network is unsure of some."""
    drawn = [
        draw_cell_patch(np.random.default_rng(seed), name, side, MPP, off_centre_um=0.0)[0]
        for name in (one, other)
    ]
    return (sum(rgb.astype(float) for rgb in drawn) / 2).astype(np.uint8).transpose(2, 0, 1)


@pytest.mark.slow
def test_the_shipped_network_looks_twice_at_unsure_cells_alone():
    predictor = Predictor.load()
    size, real, calls = predictor.card.patch_px, predictor.network, []
    pairs = [
        ("metamyelocyte", "blast"),
        ("myelocyte", "lymphocyte"),
        ("lymphocyte", "segmented_neutrophil"),
        ("blast", "eosinophil"),
    ]
    pixels = np.stack(
        [between(seed, *pair, size) for seed, pair in zip((1, 3, 6, 4), pairs, strict=True)]
    )

    class Counted:
        device = "cpu"

        def __call__(self, some):
            calls.append(len(some))
            return real(some)

    predictor.network = Counted()
    batch = PatchBatch(pixels, np.zeros((len(pixels), 2)), 1.0)
    twice = predictor(batch, MPP).cells
    asked, predictor.test_time_augmentation = len(calls), False
    once = predictor(batch, MPP).cells
    plain = once.class_probs**predictor.card.temperature
    again = (plain.max(1) < UNSURE_BELOW * plain.sum(1)) & (once.off_centre_um <= CENTRAL_CELL_UM)
    assert 0 < again.sum() < len(again) and asked == len(pixels) + 2 * again.sum()
    assert once.masks == twice.masks and np.array_equal(once.scores, twice.scores)
    assert np.array_equal((once.class_probs != twice.class_probs).any(1), again)
    assert np.allclose(twice.class_probs.sum(1), 1, atol=1e-4)
