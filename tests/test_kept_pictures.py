"""Pictures stay in the journal until they are written, and come out as they went in."""

from dataclasses import replace

import pytest

from hemax_batch.bench.merging import fill_journal, made_up_work
from hemax_batch.cells.merge import merge
from hemax_batch.outputs.pictures import read_pictures, write_pictures
from hemax_batch.results.kept_pictures import KeptPicture, KeptPictures

SIZE_PX = (4000, 2500)


@pytest.fixture
def work(tmp_path):
    fill_journal(tmp_path, 60, SIZE_PX)
    return made_up_work(tmp_path, SIZE_PX)


def test_every_picture_comes_back_as_it_was(work):
    kept = KeptPictures(work.journal)
    for result in work.journal.results():
        aside = kept.set_aside(result)
        assert all(isinstance(p, KeptPicture) for p in aside.cells.pictures)
        assert tuple(map(kept.read, aside.cells.pictures)) == result.cells.pictures
        assert all(picture.startswith(b"\xff\xd8") for picture in result.cells.pictures)


def test_the_archive_is_the_same_by_either_way(work, tmp_path):
    kept = KeptPictures(work.journal)
    whole = merge([r.cells for r in work.journal.results()])
    aside = merge([kept.set_aside(r).cells for r in work.journal.results()])
    write_pictures(tmp_path / "whole.zip", whole)
    write_pictures(tmp_path / "aside.zip", aside, kept.read)
    assert (tmp_path / "whole.zip").read_bytes() == (tmp_path / "aside.zip").read_bytes()
    assert len(read_pictures(tmp_path / "aside.zip")) == 60


def test_cells_without_pictures_stay_without(work):
    kept = KeptPictures(work.journal)
    result = next(work.journal.results())
    none = replace(result, cells=replace(result.cells, pictures=(b"",) * len(result.cells)))
    assert kept.set_aside(none) is none and kept.read(b"") == b""


def test_a_file_that_was_cut_short_is_said(work):
    kept = KeptPictures(work.journal)
    aside = kept.set_aside(next(work.journal.results()))
    path = work.journal.folder / "00000.region"
    path.write_bytes(path.read_bytes()[: kept._ends[0][-2] + 200])
    with pytest.raises(ValueError, match="00000.region"):
        kept.read(aside.cells.pictures[-1])
