"""Links inside the results folder: nothing outside it is ever removed or overwritten."""

import os

import pytest
from click.testing import CliRunner
from made_results import make_results
from painted_slides import smear, write_pyramid
from run_results import content, states

from hemax_batch.cli.app import main
from hemax_batch.errors import OutputError
from hemax_batch.results.atomic_files import write_file
from hemax_batch.results.contained_files import remove_tree
from hemax_batch.results.folder import ResultsFolder


@pytest.fixture
def go(weights, tmp_path):
    (tmp_path / "in").mkdir()
    write_pyramid(tmp_path / "in" / "a.tif", smear(300, 300, 1), mpp=0.25)

    def run(*more):
        given = ["run", tmp_path / "in", "--out", tmp_path / "out", "--weights", weights]
        return CliRunner().invoke(main, [str(a) for a in (*given, "--workers", 0, *more)])

    return run


@pytest.fixture
def elsewhere(tmp_path):
    """A folder outside with files that a run could take for its own."""
    folder = tmp_path / "elsewhere"
    for name in ("a", "b", "a-0123456789abcdef"):
        (folder / name).mkdir(parents=True)
        (folder / name / "00000.region").write_bytes(b"precious")
        (folder / name / ".x.1.partial").write_bytes(b"precious")
    (folder / "a.json").write_bytes(b"precious")
    return folder


@pytest.mark.parametrize("name", ["making", "old", "regions", "failed", ""])
def test_a_state_folder_that_is_a_link_is_refused_by_name(go, elsewhere, tmp_path, name):
    before, state = content(elsewhere), tmp_path / "out" / ".hemax"
    state.parent.mkdir()
    if name:
        state.mkdir()
    (state / name).symlink_to(elsewhere, target_is_directory=True)
    result = go()
    assert result.exit_code == 6 and "symbolic link" in result.output, result.output
    assert content(elsewhere) == before


def test_a_link_that_appears_during_the_run_changes_nothing_outside(elsewhere, tmp_path):
    before, results = content(elsewhere), ResultsFolder(tmp_path / "out")
    results.prepare()
    for name in ("making", "old", "regions"):
        (results.state / name).symlink_to(elsewhere, target_is_directory=True)
    with pytest.raises(OutputError, match="symbolic link"):
        results.staging_folder("a")
    with pytest.raises(OutputError, match="symbolic link"):
        results.recover_interrupted()
    with pytest.raises(OSError):
        remove_tree(results.root, results.state / "regions" / "a")
    assert content(elsewhere) == before


@pytest.mark.parametrize("times", [1, 2])
def test_a_finished_slide_that_was_moved_and_linked_is_replaced_by_overwrite(go, tmp_path, times):
    assert go().exit_code == 0
    moved = tmp_path / "disk2"
    (tmp_path / "out" / "a").rename(moved)
    (tmp_path / "out" / "a").symlink_to(moved, target_is_directory=True)
    before = content(moved)
    assert go().exit_code == 0 and states(tmp_path / "out") == {"a": "skipped"}
    for _ in range(times):
        result = go("--overwrite")
        assert result.exit_code == 0, result.output
    assert content(moved) == before
    assert not (tmp_path / "out" / "a").is_symlink()
    assert not list((tmp_path / "out" / ".hemax" / "old").iterdir())


def test_a_report_is_not_written_through_a_link(tmp_path):
    folder = make_results(tmp_path / "out")
    folder.rename(tmp_path / "S1")
    folder.symlink_to(tmp_path / "S1", target_is_directory=True)
    before = content(tmp_path / "S1")
    result = CliRunner().invoke(main, ["report", str(tmp_path / "out")])
    assert result.exit_code == 4 and "symbolic link" in result.output
    assert content(tmp_path / "S1") == before


def test_a_link_in_the_place_of_a_half_written_file_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / f".x.json.{os.getpid()}.partial").symlink_to(victim)
    write_file(tmp_path / "x.json", b"new")
    assert victim.read_bytes() == b"precious" and (tmp_path / "x.json").read_bytes() == b"new"
    (tmp_path / "y.json").symlink_to(victim)
    write_file(tmp_path / "y.json", b"new")
    assert victim.read_bytes() == b"precious" and not (tmp_path / "y.json").is_symlink()
