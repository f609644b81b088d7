"""Deduplication: the same answer as a slow greedy oracle, whatever the order or the way the records were cut up."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from made_cells import cells_at, disc

from hemax_batch.cells.merge import (
    SAME_CONTAINMENT,
    SAME_IOU,
    SAME_MASK,
    SURE_IOU,
    _near_pairs,
    merge_cells,
)
from hemax_batch.geometry import area, pairwise_iou
from hemax_batch.mask_packing import pack_mask, unpack_mask
from hemax_batch.records import Cells

records = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(10, 40), st.integers(0, 8)),
    max_size=14,
    unique=True,
)


def made(rows):
    return cells_at(
        [(x, y) for x, y, _, _ in rows],
        [d for *_, d, _ in rows],
        off_centre=[o / 2 for *_, o in rows],
    )


def oracle(cells: Cells) -> set[tuple]:
    """Greedy over all pairs: most central first, then score, then place; masks compared on one canvas."""
    canvases = []
    for (x, y), (h, w), packed in zip(cells.mask_xy, cells.mask_hw, cells.masks, strict=True):
        canvases.append(np.zeros((128, 128), bool))
        canvases[-1][y : y + h, x : x + w] = unpack_mask(packed, (h, w)) > 0

    def same(i, j):
        a, b = cells.boxes_xyxy[i], cells.boxes_xyxy[j]
        inter = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
        iou, inside = (
            pairwise_iou(a[None], b[None])[0, 0],
            inter / min(area(a[None])[0], area(b[None])[0]),
        )
        if iou >= SURE_IOU or not (iou >= SAME_IOU or inside >= SAME_CONTAINMENT):
            return iou >= SURE_IOU
        shared = np.count_nonzero(canvases[i] & canvases[j])
        return shared / min(canvases[i].sum(), canvases[j].sum()) >= SAME_MASK

    order = sorted(
        range(len(cells)),
        key=lambda i: (
            cells.off_centre_um[i],
            -cells.scores[i],
            *cells.boxes_xyxy[i][[1, 0, 2, 3]],
        ),
    )
    kept = []
    for i in order:
        if not any(same(i, j) for j in kept):
            kept.append(i)
    return {tuple(cells.boxes_xyxy[i]) for i in kept}


@settings(max_examples=80, deadline=None)
@given(records)
def test_the_merge_is_the_greedy_oracle(rows):
    cells = made(rows)
    assert {tuple(b) for b in merge_cells([cells]).cells.boxes_xyxy} == oracle(cells)


@settings(max_examples=40, deadline=None)
@given(records, st.randoms(use_true_random=False), st.integers(1, 5))
def test_order_and_parts_change_nothing(rows, random, parts):
    cells = made(rows)
    whole = merge_cells([cells])
    order = list(range(len(rows)))
    random.shuffle(order)
    again = merge_cells([cells.take(np.array(order[k::parts], int)) for k in range(parts)])
    assert np.array_equal(whole.cells.boxes_xyxy, again.cells.boxes_xyxy)
    assert np.array_equal(whole.ids, again.ids) and whole.dropped == again.dropped


def test_two_touching_cells_are_both_kept_and_numbered_by_place():
    merged = merge_cells([cells_at([(100, 10), (10, 10), (48, 10), (5, 200)])])
    assert merged.cells.boxes_xyxy[:, 0].tolist() == [10, 48, 100, 5]
    assert merged.ids.tolist() == [1, 2, 3, 4]


def test_the_record_seen_nearest_its_patchs_centre_is_kept():
    merged = merge_cells(
        [cells_at([(10, 10)], off_centre=15.0), cells_at([(11, 10)], off_centre=1.0)]
    )
    assert merged.cells.boxes_xyxy[:, 0].tolist() == [11] and merged.dropped == {"duplicate": 1}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 400), st.integers(0, 400), st.sampled_from([3, 10, 30, 300])),
        min_size=2,
        max_size=20,
    )
)
def test_boxes_that_share_half_are_always_near_pairs_whatever_their_sizes(rows):
    boxes = np.array([(x, y, x + d, y + d) for x, y, d in rows], float)
    wh = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - np.maximum(
        boxes[:, None, :2], boxes[None, :, :2]
    )
    smaller = np.minimum(area(boxes)[:, None], area(boxes)[None])
    half = np.clip(wh, 0, None).prod(-1) >= 0.5 * smaller
    wanted = {(i, j) for i, j in np.argwhere(np.triu(half, 1)).tolist()}
    found = [tuple(sorted(pair)) for pair in _near_pairs(boxes).tolist()]
    assert wanted <= set(found) and len(found) == len(set(found))


def test_a_small_cell_in_the_bay_of_a_large_one_survives():
    crescent = disc(60)
    crescent[:, 30:] = 0
    cells = cells_at([(0, 0), (34, 20)], [60, 20])
    cells = replace(cells, masks=(pack_mask(crescent), cells.masks[1]))
    assert (
        len(merge_cells([cells]).ids) == 2
    )  # though the small one's box lies wholly in the large one's
    assert (
        len(merge_cells([cells_at([(0, 0), (34, 20)], [60, 20])]).ids) == 1
    )  # inside a whole disc it is the same cell


def test_records_alike_in_all_but_content_do_not_depend_on_order():
    one, other = cells_at([(5, 5)], classes="blast"), cells_at([(5, 5)], classes="monocyte")
    assert np.array_equal(
        merge_cells([one, other]).cells.class_probs, merge_cells([other, one]).cells.class_probs
    )


@settings(max_examples=40, deadline=None)
@given(records, st.integers(15, 60))
def test_cutting_the_plane_and_merging_is_the_identity(rows, side):
    """A region owns the records centred in its core; whatever the cores' side, the merged cells are the same."""
    cells = made(rows)
    centre = (cells.boxes_xyxy[:, :2] + cells.boxes_xyxy[:, 2:]) / 2
    places = np.floor(centre / side).astype(int)
    parts = [cells.take((places == place).all(1)) for place in np.unique(places, axis=0)]
    whole, cut = merge_cells([cells]), merge_cells(parts)
    assert (
        np.array_equal(whole.cells.boxes_xyxy, cut.cells.boxes_xyxy)
        and whole.dropped == cut.dropped
    )


def test_merging_merged_cells_changes_nothing():
    random = np.random.default_rng(1)
    cells = cells_at(
        random.integers(0, 300, (60, 2)),
        random.integers(20, 40, 60).tolist(),
        off_centre=list(range(60)),
    )
    once = merge_cells([cells])
    twice = merge_cells([once.cells])
    assert np.array_equal(once.cells.boxes_xyxy, twice.cells.boxes_xyxy) and twice.dropped == {
        "duplicate": 0
    }


def test_no_cells_merge_to_no_cells():
    assert (
        len(merge_cells([]).cells) == 0
        and len(merge_cells([Cells.empty(), Cells.empty()]).ids) == 0
    )
