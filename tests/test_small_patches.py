"""Candidates are looked at in a smaller patch first, and again only where it cuts their own cell."""

import numpy as np
from painted_network import PaintedNetwork
from painted_slides import write_pyramid

from hemax_batch.inference.patch_predictor import PatchPredictor
from hemax_batch.slides.reader import open_slide

MPP = 0.3  # of the slide and the network: the small patch shows 28.8 µm, the large one 38.4 µm
SMALL_XY, LARGE_XY = (100.0, 100.0), (300.0, 100.0)


def discs(*discs_xyd) -> np.ndarray:
    """Violet discs (x, y, diameter in pixels) on glass."""
    rgb = np.full((200, 400, 3), 235, np.uint8)
    ys, xs = np.mgrid[:200, :400] + 0.5
    for x, y, diameter in discs_xyd:
        rgb[np.hypot(xs - x, ys - y) <= diameter / 2] = (110, 50, 160)
    return rgb


def look(path, weights, places):
    with open_slide(path, "discs") as reader:
        predictor = PatchPredictor(reader, PaintedNetwork(weights))
        return predictor.predict_own_cells(np.array(places), 128), predictor.patches


def test_only_a_cut_cell_is_looked_at_again(tmp_path, weights):
    path = write_pyramid(tmp_path / "discs.tif", discs((*SMALL_XY, 40), (*LARGE_XY, 110)), mpp=MPP)
    both, patches = look(path, weights, [SMALL_XY, LARGE_XY])
    assert patches == 3 and len(both.cells) == 2 and not both.cut.any()
    sides = both.cells.boxes_xyxy[:, 2] - both.cells.boxes_xyxy[:, 0]
    assert np.allclose(np.sort(sides), [40, 110], atol=3)


def test_what_is_found_round_a_candidate_does_not_depend_on_the_others(tmp_path, weights):
    path = write_pyramid(tmp_path / "discs.tif", discs((*SMALL_XY, 40), (*LARGE_XY, 110)), mpp=MPP)
    both, _ = look(path, weights, [SMALL_XY, LARGE_XY])
    for place in (SMALL_XY, LARGE_XY):
        alone, _ = look(path, weights, [place])
        of_it = both.take(np.flatnonzero((both.patch_centres_xy == place).all(1)))
        assert len(alone.cells) == 1 and alone.cells.masks == of_it.cells.masks
        assert np.array_equal(alone.cells.boxes_xyxy, of_it.cells.boxes_xyxy)
