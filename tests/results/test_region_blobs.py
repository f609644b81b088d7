"""Pictures and outlines stay in the journal until they are written, and come out as they went in."""

import io
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_cells import cells_at

from hemax_batch.bench.merging import fill_journal, synthetic_job
from hemax_batch.cells.merge import merge_cells
from hemax_batch.outputs import stored_zip
from hemax_batch.outputs.outlines import outline_texts
from hemax_batch.outputs.pictures import read_pictures, write_pictures
from hemax_batch.records import RegionResult
from hemax_batch.results import region_blobs as kept_module
from hemax_batch.results.journal import RegionJournal
from hemax_batch.results.region_blobs import BlobRef, RegionBlobs

SIZE_PX = (4000, 2500)


@pytest.fixture
def work(tmp_path):
    fill_journal(tmp_path, 60, SIZE_PX)
    return synthetic_job(tmp_path, SIZE_PX)


def test_every_picture_and_outline_comes_back_as_it_was(work, monkeypatch):
    monkeypatch.setattr(kept_module, "_MAX_OPEN_FILES", 2)
    with RegionBlobs(work.journal) as kept:
        asides, wholes = list(kept.results()), list(work.journal.results())
        assert len(wholes) > 3
        for aside, whole in reversed(list(zip(asides, wholes, strict=True))):
            assert all(isinstance(place, BlobRef) for place in aside.cells.pictures)
            assert tuple(map(kept.picture, aside.cells.pictures)) == whole.cells.pictures
            assert tuple(map(kept.outline, aside.cells.outlines)) == whole.cells.outlines
            assert all(picture.startswith(b"\xff\xd8") for picture in whole.cells.pictures)
            assert list(whole.cells.outlines) == outline_texts(whole.cells)
            assert (
                np.array_equal(aside.cells.boxes_xyxy, whole.cells.boxes_xyxy)
                and aside.notes == whole.notes
            )
        assert len(kept._open) == 2
    assert not kept._open


def test_the_archive_is_the_same_by_either_way(work, tmp_path):
    whole = merge_cells([r.cells for r in work.journal.results()])
    write_pictures(tmp_path / "whole.zip", whole)
    with RegionBlobs(work.journal) as kept:
        write_pictures(
            tmp_path / "aside.zip", merge_cells([r.cells for r in kept.results()]), kept.picture
        )
    assert (tmp_path / "whole.zip").read_bytes() == (tmp_path / "aside.zip").read_bytes()
    assert len(read_pictures(tmp_path / "aside.zip", 60)) == 60


def test_cells_without_pictures_or_outlines_stay_without(tmp_path):
    journal = RegionJournal.for_slide(tmp_path, "smear", "f" * 64)
    journal.save(RegionResult(4, cells_at([(0, 0), (90, 9)]), np.zeros(0, np.float32), 2, 2, 0, 0))
    with RegionBlobs(journal) as kept:
        [result] = kept.results()
        assert [kept.picture(place) for place in result.cells.pictures] == [b"", b""]
        assert [kept.outline(place) for place in result.cells.outlines] == [b"", b""]


def test_a_file_that_was_cut_short_or_damaged_is_said(work):
    path, whole = work.journal.path(0), next(work.journal.results())
    raw = bytearray(path.read_bytes())
    raw[raw.index(whole.cells.pictures[2]) + 200] ^= 1
    path.write_bytes(raw)
    with RegionBlobs(work.journal) as kept:
        places = next(kept.results()).cells.pictures
        assert kept.picture(places[1]) == whole.cells.pictures[1]
        with pytest.raises(ValueError, match="00000.region.* cell 2 "):
            kept.picture(places[2])
    assert 0 not in work.journal.finished()  # so that the next run looks at the region again
    path.write_bytes(raw[:-1])
    with RegionBlobs(work.journal) as kept, pytest.raises(ValueError, match="its head says"):
        next(kept.results())


def by_zipfile(files):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files:
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
    return made.getvalue()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=12))
def test_an_archive_is_what_zipfile_writes(contents):
    files = [(f"{i}.jpg", content) for i, content in enumerate(contents)]
    made = io.BytesIO()
    stored_zip.write_stored(made, files)
    assert made.getvalue() == by_zipfile(files)


@pytest.mark.slow
def test_more_files_than_an_archive_of_old_can_count():
    files = [(f"{i}.jpg", b"%d" % i) for i in range(70_000)]
    made = io.BytesIO()
    stored_zip.write_stored(made, files)
    assert made.getvalue() == by_zipfile(files)


def test_an_entry_beyond_2_gib_is_zipfiles():
    info = zipfile.ZipInfo("7.jpg", (1980, 1, 1, 0, 0, 0))
    info.CRC, info.file_size, info.compress_size, info.header_offset, info.external_attr = (
        5,
        9,
        9,
        2**32 + 11,
        0o600 << 16,
    )
    theirs = io.BytesIO()
    with zipfile.ZipFile(theirs, "w") as archive:
        archive.filelist.append(info)
        archive._didModify = True
    about = (0, 0, 0, stored_zip._DATE, 5, 9, 9, 5)
    assert theirs.getvalue().startswith(stored_zip._entry(about, b"7.jpg", 2**32 + 11))
    assert stored_zip._end(3, 9, 2**33)[:4] == b"PK\6\6"
