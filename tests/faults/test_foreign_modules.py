"""Modules in the current folder, or in relative entries of PYTHONPATH, are never imported by a process of the tool."""

import os
import subprocess
import sys

import pytest
from checkout import SUPPORT
from painted_slides import smear, write_pyramid

NAMES = (
    "numpy",
    "torch",
    "distributed",
    "scipy",
    "multiprocessing",
    "json",
    "click",
    "tifffile",
    "sitecustomize",
)


@pytest.fixture
def trap(tmp_path):
    """A folder whose modules leave a mark when they are imported."""
    folder = tmp_path / "trap"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.py").write_text(
            f"open({str(folder / 'imported')!r}, 'a').write('{name} ')\nraise ImportError('trap')\n"
        )
    return folder


def assert_untouched(trap):
    mark = trap / "imported"
    assert not mark.exists(), mark.read_text()


def test_a_run_with_workers_imports_nothing_from_where_it_is_started(trap, weights, tmp_path):
    (tmp_path / "in").mkdir()
    write_pyramid(tmp_path / "in" / "a.tif", smear(700, 500, 1), mpp=0.25)
    command = [sys.executable, SUPPORT / "painted_network.py", "run", tmp_path / "in"]
    command += ["--out", tmp_path / "out", "--weights", weights, "--core-um", 64, "--workers", 2]
    ended = subprocess.run([str(a) for a in command], cwd=trap, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert_untouched(trap)


_CHILDREN = """
import sys
from hemax_batch.import_path import secure_own_imports
if __name__ == "__main__":
    secure_own_imports()
    from hemax_batch.scheduling.subprocess_caller import SubprocessCaller
    import os
    before = dict(os.environ)
    path = SubprocessCaller().call(eval, "__import__('sys').path", timeout_s=200)
    assert not any(p in ("", ".", {trap!r}) for p in path), path
    assert dict(os.environ) == before
"""


@pytest.mark.parametrize("entry", ["", ".", "../trap"])
def test_relative_entries_of_pythonpath_reach_no_child(trap, tmp_path, entry):
    (trap / "sitecustomize.py").unlink()  # Python itself imports it before any of our code runs
    (trap / "multiprocessing.py").unlink()
    script = tmp_path / "start.py"
    script.write_text(_CHILDREN.format(trap=str(trap)))
    path = os.pathsep.join(
        [entry, *filter(os.path.isabs, os.environ.get("PYTHONPATH", "").split(":"))]
    )
    environment = {**os.environ, "PYTHONPATH": path}
    for name in ("json",):  # taken by Python's own start-up
        (trap / f"{name}.py").unlink()
    ended = subprocess.run(
        [sys.executable, script], cwd=trap, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert_untouched(trap)


def test_python_m_does_not_import_from_the_current_folder(trap):
    command = [sys.executable, "-m", "hemax_batch", "--help"]
    ended = subprocess.run(command, cwd=trap, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert_untouched(trap)
