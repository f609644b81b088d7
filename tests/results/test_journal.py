"""Finished regions and notes of failures, kept across kills."""

import errno

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import hemax_batch.results.journal as journal_module
from hemax_batch import vocabulary
from hemax_batch.mask_packing import pack_mask
from hemax_batch.records import Cells, RegionResult
from hemax_batch.results.journal import (  # fmt: skip
    RegionJournal,
    SlideFailure,
    clear_failure,
    read_failure,
    record_failure,
)
from hemax_batch.results.region_file import decode_region, encode_region


def some_cells(n: int, seed: int = 0) -> Cells:
    rng = np.random.default_rng(seed)
    return Cells(
        rng.uniform(0, 500, (n, 4)).astype(np.float32),
        rng.uniform(0, 1, n).astype(np.float32),
        rng.dirichlet(np.ones(vocabulary.N_CLASSES), n).astype(np.float32),
        rng.uniform(0, 1, (n, vocabulary.N_ATTRIBUTE_STATES)).astype(np.float32),
        rng.integers(0, 500, (n, 2)).astype(np.int32),
        np.full((n, 2), 5, np.int32),
        tuple(pack_mask(rng.integers(0, 3, (5, 5)).astype(np.uint8)) for _ in range(n)),
        rng.uniform(0, 20, n).astype(np.float32),
        np.zeros(n, np.int32),
        tuple(rng.bytes(i % 3) for i in range(n)),
    )


def result(index: int, n: int = 3, **values) -> RegionResult:
    return RegionResult(
        index,
        some_cells(n, index),
        np.array([7.1, 7.3], np.float32),
        5,
        6,
        1,
        2,
        notes=("a", "b"),
        **values,
    )


def same(a: RegionResult, b: RegionResult) -> bool:
    return encode_region(a) == encode_region(b)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 40), st.floats(0, 1e6), st.text(max_size=20))
def test_a_region_comes_back_as_it_was(n, seconds, failure):
    before = result(3, n, seconds_read=seconds, failure=failure)
    after = decode_region(encode_region(before))
    assert same(before, after)
    assert after.cells.masks == before.cells.masks and after.cells.pictures == before.cells.pictures
    assert after.notes == ("a", "b") and after.failure == failure and np.isnan(after.focus)


def test_regions_are_kept_in_the_order_of_their_index(tmp_path):
    journal = RegionJournal.for_slide(tmp_path, "smear", "f" * 64)
    for index in (12, 2, 100_000):
        journal.save(result(index))
    assert journal.finished() == {2, 12, 100_000}
    assert [r.region_index for r in journal.results()] == [2, 12, 100_000]
    journal.clear()
    assert journal.finished() == set() and list(journal.results()) == []


def test_a_damaged_region_is_done_again_not_used(tmp_path):
    journal = RegionJournal.for_slide(tmp_path, "smear", "f" * 64)
    for index in (0, 1, 2):
        journal.save(result(index))
    path = journal.folder / "00001.region"
    raw = bytearray(path.read_bytes())
    for at in range(
        len(raw) // 3, len(raw) // 3 + 64
    ):  # one byte may fall on a field that says nothing
        raw[at] ^= 0xFF
    path.write_bytes(raw)
    (journal.folder / "00002.region").write_bytes(b"PK")
    assert journal.finished() == {0}
    assert not path.exists()


def test_a_region_that_cannot_be_read_now_is_kept(tmp_path, monkeypatch):
    """The share may have hiccuped; the region is whole."""
    journal = RegionJournal.for_slide(tmp_path, "smear", "f" * 64)
    journal.save(result(0))

    def stale(*_):
        raise OSError(errno.ESTALE, "Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr(journal_module, "read_bounded", stale)
        assert journal.finished() == set()
    assert journal.finished() == {0}


def test_other_fingerprints_of_the_slide_are_swept_away_and_other_slides_kept(tmp_path):
    old, new = (RegionJournal.for_slide(tmp_path, "smear", f * 64) for f in "ab")
    other = RegionJournal.for_slide(tmp_path, "smear-2", "a" * 64)
    longer = RegionJournal.for_slide(tmp_path, "smear-0123456789abcdef", "a" * 64)
    for journal in (old, new, other, longer):
        journal.save(result(0))
    new.remove_other_fingerprints()
    assert not old.folder.exists()
    assert all(journal.finished() == {0} for journal in (new, other, longer))


def test_a_failure_is_remembered_until_forgotten(tmp_path):
    assert read_failure(tmp_path, "smear") is None
    record_failure(tmp_path, "smear", SlideFailure("abc", "too much lost: «ä»"))
    assert read_failure(tmp_path, "smear") == SlideFailure("abc", "too much lost: «ä»")
    clear_failure(tmp_path, "smear")
    clear_failure(tmp_path, "smear")
    assert read_failure(tmp_path, "smear") is None
