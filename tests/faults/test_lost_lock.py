"""The lock's file is removed during the run: the run goes on where it is alone, and ends in good order where not."""

import json

import pytest
from click.testing import CliRunner
from painted_slides import smear, write_pyramid

from hemax_batch import pipeline
from hemax_batch.cli.app import main
from hemax_batch.errors import LockedError
from hemax_batch.results.lock import LockHolder, OutputLock, describe_holder


@pytest.fixture
def go(weights, tmp_path, monkeypatch):
    """A run in which `fault(state_folder)` happens when its first slide is opened."""
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        write_pyramid(tmp_path / "in" / f"{name}.tif", smear(300, 300, 1), mpp=0.25)

    def run(fault):
        open_slide = pipeline.RunContext.open_slide

        def opened(context, job):
            open_slide(context, job)
            if job.slide_id == "a":
                fault(tmp_path / "out" / ".hemax")

        monkeypatch.setattr(pipeline.RunContext, "open_slide", opened)
        given = ["run", tmp_path / "in", "--out", tmp_path / "out", "--weights", weights]
        return CliRunner().invoke(main, [str(a) for a in (*given, "--workers", 0)])

    return run


def remove(state):
    for path in state.glob("lock.*"):
        path.unlink()


def damage(state):
    for path in state.glob("lock.*"):
        path.write_bytes(b"\xff")


def hand_over(state):
    """Another run, on another host, takes the folder."""
    remove(state)
    other = {**vars(LockHolder.this_process()), "host": "elsewhere"}
    (state / "lock.1").write_text(json.dumps(other))


def test_a_run_whose_lock_was_removed_takes_it_again(go, tmp_path):
    result = go(remove)
    assert result.exit_code == 0, result.output
    assert "lock of this run was removed" in result.output
    assert describe_holder(tmp_path / "out" / ".hemax") == ""


@pytest.mark.parametrize("fault", [hand_over, damage])
def test_a_run_that_may_not_be_alone_ends_with_5(go, tmp_path, fault):
    result = go(fault)
    assert result.exit_code == 5, result.output
    assert not (tmp_path / "out" / "a").exists()
    assert "Traceback" not in result.output


def test_two_that_lost_their_locks_do_not_both_go_on(tmp_path):
    with OutputLock(tmp_path) as first:
        remove(tmp_path)
        assert first.renew_if_lost() and not first.renew_if_lost()
        hand_over(tmp_path)
        with pytest.raises(LockedError):
            first.renew_if_lost()
