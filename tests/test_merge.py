"""Deduplication: the same answer as a slow greedy oracle, whatever the order or the way the records were cut up."""

import numpy as np
from cellbank import cells_at
from hypothesis import given, settings
from hypothesis import strategies as st

from hemax_batch.cells.merge import SAME_INSIDE, SAME_IOU, merge
from hemax_batch.geometry import area, pairwise_iou
from hemax_batch.records import Cells

records = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(10, 40), st.integers(0, 8)), max_size=14, unique=True
)


def made(rows):
    return cells_at([(x, y) for x, y, _, _ in rows], [d for *_, d, _ in rows], off_centre=[o / 2 for *_, o in rows])


def oracle(cells: Cells) -> set[tuple]:
    """Greedy over all pairs: most central first, then score, then place."""

    def inside(a, b):
        wh = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
        inter = np.prod(np.clip(wh, 0, None))
        return inter / min(area(a[None])[0], area(b[None])[0])

    order = sorted(
        range(len(cells)),
        key=lambda i: (cells.off_centre_um[i], -cells.scores[i], *cells.boxes_xyxy[i][[1, 0, 2, 3]]),
    )
    kept = []
    for i in order:
        a = cells.boxes_xyxy[i]
        if all(
            pairwise_iou(a[None], cells.boxes_xyxy[j][None])[0, 0] < SAME_IOU
            and inside(a, cells.boxes_xyxy[j]) < SAME_INSIDE
            for j in kept
        ):
            kept.append(i)
    return {tuple(cells.boxes_xyxy[i]) for i in kept}


@settings(max_examples=120, deadline=None)
@given(records)
def test_the_merge_is_the_greedy_oracle(rows):
    cells = made(rows)
    assert {tuple(b) for b in merge([cells]).cells.boxes_xyxy} == oracle(cells)


@settings(max_examples=60, deadline=None)
@given(records, st.randoms(use_true_random=False), st.integers(1, 5))
def test_order_and_parts_change_nothing(rows, random, parts):
    cells = made(rows)
    whole = merge([cells])
    order = list(range(len(rows)))
    random.shuffle(order)
    again = merge([cells.take(np.array(order[k::parts], int)) for k in range(parts)])
    assert np.array_equal(whole.cells.boxes_xyxy, again.cells.boxes_xyxy)
    assert np.array_equal(whole.ids, again.ids) and whole.dropped == again.dropped


def test_two_touching_cells_are_both_kept_and_numbered_by_place():
    merged = merge([cells_at([(100, 10), (10, 10), (48, 10), (5, 200)])])
    assert merged.cells.boxes_xyxy[:, 0].tolist() == [10, 48, 100, 5]
    assert merged.ids.tolist() == [1, 2, 3, 4]


def test_the_record_seen_nearest_its_patchs_centre_is_kept():
    merged = merge([cells_at([(10, 10)], off_centre=15.0), cells_at([(11, 10)], off_centre=1.0)])
    assert merged.cells.boxes_xyxy[:, 0].tolist() == [11] and merged.dropped == {"duplicate": 1}


def test_no_cells_merge_to_no_cells():
    assert len(merge([]).cells) == 0 and len(merge([Cells.empty(), Cells.empty()]).ids) == 0
