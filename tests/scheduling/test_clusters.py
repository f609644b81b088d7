"""Runs on a dask cluster of real processes: a scheduler that is lost, encryption, two runs at once, no network."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from checkout import SUPPORT
from painted_slides import smear, write_pyramid
from run_results import content, states

pytestmark = pytest.mark.slow

LONG_S = 300  # for what takes seconds on a machine that has time


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """12 regions of 64 µm."""
    return write_pyramid(
        tmp_path_factory.mktemp("slides") / "one.tif", smear(1000, 700, 3), mpp=0.25
    )


@contextmanager
def cluster(file: Path, *tls: str):
    """A scheduler and one worker, each a process of its own: gives the scheduler's."""
    serve = [sys.executable, "-c", "from distributed.cli.dask_scheduler import main; main()"]
    work = [sys.executable, "-c", "from distributed.cli.dask_worker import main; main()"]
    common = ["--scheduler-file", str(file), "--host", "127.0.0.1", *tls]
    quiet = {
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
        "start_new_session": True,
        "env": {**os.environ, "PYTHONPATH": str(SUPPORT), "OMP_NUM_THREADS": "1"},
    }
    processes = [
        subprocess.Popen([*serve, *common, "--port", "0", "--no-dashboard"], **quiet),
        subprocess.Popen([*work, *common, "--nthreads", "1", "--no-dashboard"], **quiet),
    ]
    try:
        yield processes[0]
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(LONG_S)


def start(slide, out, weights, *more, fault="", prefix=()):
    command = [
        *prefix,
        sys.executable,
        SUPPORT / "painted_network.py",
        "run",
        slide,
        "--out",
        out,
        "--weights",
        weights,
    ]
    return subprocess.Popen(
        [str(part) for part in (*command, "--engine", "torch", "--core-um", 64, *more)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "HEMAX_TEST_FAULT": fault, "OMP_NUM_THREADS": "1"},
    )


def ended(process, code) -> str:
    output, _ = process.communicate(timeout=LONG_S)
    assert process.returncode == code, output
    return output


@pytest.fixture(scope="module")
def whole(slide, weights, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    ended(start(slide, out, weights, "--workers", 0), 0)
    return content(out / "one")


def wait_until(condition):
    deadline = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_scheduler_that_is_lost_ends_the_run_and_the_next_one_goes_on(
    slide, weights, whole, tmp_path
):
    out, gate = tmp_path / "out", tmp_path / "gate"
    os.environ["HEMAX_TEST_FAULT"] = f"gate:{gate}:2"  # the worker takes its environment from here
    try:
        with cluster(tmp_path / "scheduler.json") as scheduler:
            process = start(slide, out, weights, "--scheduler-file", tmp_path / "scheduler.json")
            wait_until(
                lambda: (
                    len(list(out.glob(".hemax/regions/*/*.region"))) >= 2
                    or process.poll() is not None
                )
            )
            os.killpg(scheduler.pid, signal.SIGKILL)
            output = ended(process, 1)
    finally:
        del os.environ["HEMAX_TEST_FAULT"]
    assert "scheduler" in output and "run again" in output and "Traceback" not in output, output
    assert (
        states(out) == {"one": "not reached"}
        and len(list(out.glob(".hemax/regions/*/*.region"))) >= 2
    )
    ended(start(slide, out, weights, "--workers", 0), 0)
    assert content(out / "one") == whole


def test_two_runs_on_one_cluster_keep_to_their_own(slide, weights, whole, tmp_path):
    (tmp_path / "other").mkdir()
    other = write_pyramid(tmp_path / "other" / "one.tif", smear(1000, 700, 4), mpp=0.25)
    with cluster(tmp_path / "scheduler.json"):
        on_it = ("--scheduler-file", tmp_path / "scheduler.json")
        both = [
            start(path, tmp_path / name, weights, *on_it)
            for path, name in ((slide, "a"), (other, "b"))
        ]
        for process in both:
            ended(process, 0)
    assert content(tmp_path / "a" / "one") == whole != content(tmp_path / "b" / "one")
    ended(start(other, tmp_path / "alone", weights, "--workers", 0), 0)
    assert content(tmp_path / "b" / "one") == content(tmp_path / "alone" / "one")


def certificate(folder: Path) -> tuple[str, str]:
    """A self-signed certificate, its own authority, and its key."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=hemax-batch-test",
            "-keyout",
            key,
            "-out",
            cert,
        ],
        check=True,
        capture_output=True,
    )
    return str(cert), str(key)


@pytest.mark.skipif(
    not shutil.which("openssl"), reason="openssl makes the certificates, and is not installed"
)
def test_a_cluster_may_be_encrypted_and_then_takes_nobody_without_a_certificate(
    slide, weights, whole, tmp_path
):
    cert, key = certificate(tmp_path)
    tls = ("--tls-ca-file", cert, "--tls-cert", cert, "--tls-key", key)
    file = tmp_path / "scheduler.json"
    with cluster(file, *tls):
        wait_until(lambda: file.exists() and file.read_text())
        assert '"tls://' in file.read_text()
        out = tmp_path / "out"
        ended(start(slide, out, weights, "--scheduler-file", file, "--tls", cert, cert, key), 0)
        assert content(out / "one") == whole
        refused = ended(start(slide, tmp_path / "none", weights, "--scheduler-file", file), 2)
        assert "--tls" in refused and "Traceback" not in refused


def without_network() -> list[str]:
    """Words before a command that leave it nothing but the loopback interface; skips where that is not allowed."""
    lo_up = (
        "import fcntl, os, socket, struct, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
        "fcntl.ioctl(s, 0x8914, struct.pack('16sH14s', b'lo', 0x41, b'')); os.execv(sys.argv[1], sys.argv[1:])"
    )
    words = ["unshare", "--net", sys.executable, "-c", lo_up]
    if (
        not shutil.which("unshare")
        or subprocess.run([*words, "/bin/true"], capture_output=True).returncode
    ):
        pytest.skip("a network namespace cannot be made here: that takes root")
    return words


@pytest.mark.parametrize("workers", [0, 2])
def test_no_network_is_needed(slide, weights, whole, tmp_path, workers):
    out = tmp_path / "out"
    ended(start(slide, out, weights, "--workers", workers, prefix=without_network()), 0)
    assert content(out / "one") == whole


def test_no_privileges_are_needed(slide, weights, whole, tmp_path):
    """As nobody, with nothing but the results folder to write to."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("setpriv as root starts the run as nobody")
    reachable = tmp_path
    while reachable != reachable.parent:  # pytest's folders are private
        if reachable.stat().st_uid == 0 and reachable.name.startswith(("pytest", tmp_path.name)):
            reachable.chmod(0o755)
        reachable = reachable.parent
    shutil.copy(slide, tmp_path / "one.tif")
    shutil.copy(weights, tmp_path / "w.safetensors")
    (tmp_path / "out").mkdir()
    os.chown(tmp_path / "out", 65534, 65534)
    nobody = [
        "setpriv",
        "--reuid",
        "65534",
        "--regid",
        "65534",
        "--clear-groups",
        "env",
        "HOME=/nonexistent",
    ]
    if subprocess.run(
        [*nobody, sys.executable, "-c", "import hemax_batch"], capture_output=True, cwd="/"
    ).returncode:
        reading = "-all,+dac_read_search"  # this Python, or the checkout, is private to root
        nobody[1:1] = ["--inh-caps", reading, "--ambient-caps", reading]
    ended(
        start(
            tmp_path / "one.tif",
            tmp_path / "out",
            tmp_path / "w.safetensors",
            "--workers",
            2,
            prefix=nobody,
        ),
        0,
    )
    there = content(tmp_path / "out" / "one")
    assert (
        there["cells.csv"] == whole["cells.csv"]
        and (tmp_path / "out" / "one").stat().st_uid == 65534
    )
