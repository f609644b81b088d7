"""What a run leaves on the disk: the user's umask holds, and nothing lies beside the slides."""

import os
import stat

import painted_network
from click.testing import CliRunner
from painted_slides import smear, write_pyramid

from hemax_batch.cli.app import main
from hemax_batch.scheduling import work_queue


def test_files_have_the_umask_and_nothing_lies_beside_the_slides(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(work_queue, "process_region", painted_network.process_region)
    (tmp_path / "in").mkdir()
    write_pyramid(tmp_path / "in" / "a.tif", smear(300, 300, 1), mpp=0.25)
    before = sorted(tmp_path.rglob("*"))
    given = ["run", tmp_path / "in", "--out", tmp_path / "out", "--weights", weights]
    umask = os.umask(0o027)
    try:
        result = CliRunner().invoke(main, [str(a) for a in (*given, "--workers", 0)])
    finally:
        os.umask(umask)
    assert result.exit_code == 0, result.output
    made = [p for p in tmp_path.rglob("*") if p not in before]
    assert all(p.is_relative_to(tmp_path / "out") for p in made)
    wrong = {
        str(p): oct(stat.S_IMODE(p.stat().st_mode))
        for p in made
        if stat.S_IMODE(p.stat().st_mode) != (0o750 if p.is_dir() else 0o640)
    }
    assert not wrong
