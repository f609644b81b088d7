"""Sizing to what a job may use, and tasks on either executor: same results, lost workers, existing clusters."""

import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest

from hemax_batch.errors import UsageError
from hemax_batch.scheduling import dask_cluster, resources
from hemax_batch.scheduling.dask_cluster import connect_executor
from hemax_batch.scheduling.executors import (
    TASKS_PER_WORKER,
    DaskExecutor,
    SerialExecutor,
    WorkerDied,
)
from hemax_batch.scheduling.resources import cpu_limit, memory_limit_bytes, visible_gpus
from hemax_batch.settings import RunOptions

pytestmark = pytest.mark.slow


def double(x):
    return 2 * x


def refuse(x):
    raise ValueError(f"no {x}")


def environment(_):
    return {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")}


def die(_):
    os._exit(1)


def results_of(executor, count):
    """Wait for `count_differential` tasks: {tag: Finished}."""
    ended, deadline = {}, time.monotonic() + 60
    while len(ended) < count and time.monotonic() < deadline:
        ended |= {f.tag: f for f in executor.wait(0.2)}
    return ended


@pytest.fixture(scope="module")
def two_workers():
    executor = connect_executor(RunOptions(workers=2))
    yield executor
    executor.close()


def test_serial_runs_urgent_tasks_first_and_reports_errors():
    executor = SerialExecutor()
    executor.submit("a", double, 1)
    executor.submit("b", refuse, 2)
    executor.submit("c", double, 3, urgent=True)
    order = [executor.wait(0)[0] for _ in range(3)]
    assert [f.tag for f in order] == ["c", "a", "b"]
    assert [f.value for f in order[:2]] == [6, 2] and "no 2" in str(order[2].error)
    assert executor.wait(0) == []


def test_workers_give_values_and_errors_as_serial_does(two_workers):
    assert two_workers.out_of_process and two_workers.capacity == 2 * TASKS_PER_WORKER
    for i in range(5):
        two_workers.submit(i, double, i)
    two_workers.submit("bad", refuse, 1)
    ended = results_of(two_workers, 6)
    assert {i: ended[i].value for i in range(5)} == {i: 2 * i for i in range(5)}
    assert isinstance(ended["bad"].error, ValueError)
    assert two_workers.in_flight == 0


def test_each_worker_has_one_thread_for_the_numeric_libraries(two_workers):
    two_workers.submit("env", environment, None)
    assert results_of(two_workers, 1)["env"].value["OMP_NUM_THREADS"] == "1"


def test_everything_listens_on_loopback_only(two_workers):
    us = psutil.Process()
    listening = {
        connection.laddr.ip
        for process in (us, *us.children(recursive=True))
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert two_workers.capacity and listening == {"127.0.0.1"}


def test_a_task_that_kills_its_workers_is_reported_lost_and_the_others_are_done():
    executor = connect_executor(RunOptions(workers=1))
    try:
        executor.submit("die", die, None)
        executor.submit("live", double, 4)
        ended = results_of(executor, 2)
    finally:
        executor.close()
    assert isinstance(ended["die"].error, WorkerDied)
    assert (
        isinstance(ended["live"].error, WorkerDied) or ended["live"].value == 8
    )  # a neighbour may be blamed too: it is tried again alone


def test_a_cluster_that_does_not_close_in_time_spoils_nothing():
    """As the soak found it: a worker killed at the very end was being started anew."""
    ended = []

    def close(timeout):
        ended.append(timeout)
        raise TimeoutError(f"timed out after {timeout} s.")

    client = SimpleNamespace(subscribe_topic=lambda *_: None, close=close)
    DaskExecutor(client, SimpleNamespace(close=close), "two").close()
    assert len(ended) == 2


def test_an_existing_cluster_is_used_and_left_running(tmp_path):
    file = tmp_path / "scheduler.json"
    options = ["--scheduler-file", str(file)]
    serve = [sys.executable, "-c", "from distributed.cli.dask_scheduler import main; main()"]
    work = [sys.executable, "-c", "from distributed.cli.dask_worker import main; main()"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(
        [*serve, *options, "--host", "127.0.0.1", "--port", "0", "--no-dashboard"], **quiet
    )
    worker = subprocess.Popen(
        [*work, *options, "--host", "127.0.0.1", "--nthreads", "1", "--no-dashboard"], **quiet
    )
    try:
        deadline = time.monotonic() + 60
        while not file.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for _ in range(2):  # a second run finds it as the first did
            executor = connect_executor(RunOptions(scheduler_file=file))
            executor.submit("task", len, "abc")
            assert results_of(executor, 1)["task"].value == 3
            executor.close()
        assert (
            json.loads(file.read_text())["address"].startswith("tcp://") and server.poll() is None
        )
    finally:
        for process in (worker, server):
            process.terminate()
        for process in (worker, server):
            process.wait(20)


def test_a_scheduler_that_is_not_there_is_a_usage_error(monkeypatch):
    monkeypatch.setattr(dask_cluster, "_CONNECT_TIMEOUT_S", 0.5)
    with pytest.raises(UsageError, match="tcp://127.0.0.1:9"):
        connect_executor(RunOptions(scheduler="tcp://127.0.0.1:9"))


def test_cores_follow_cgroup_and_slurm(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "_affinity", lambda: 64)
    monkeypatch.setattr(resources, "_OWN_GROUPS", tmp_path / "none")
    assert cpu_limit({}, tmp_path) == 64
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert cpu_limit({}, tmp_path) == 64
    (tmp_path / "cpu.max").write_text("2000000 100000\n")
    assert cpu_limit({}, tmp_path) == 20
    assert cpu_limit({"SLURM_CPUS_PER_TASK": "8"}, tmp_path) == 8
    assert cpu_limit({"SLURM_CPUS_ON_NODE": "12"}, tmp_path) == 12
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert cpu_limit({}, tmp_path) == 1


def test_cores_and_memory_follow_cgroup_v1(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "_affinity", lambda: 64)
    for name, text in (
        ("cpu/cpu.cfs_quota_us", "400000"),
        ("cpu/cpu.cfs_period_us", "100000"),
        ("memory/memory.limit_in_bytes", str(2**30)),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_limit({}, tmp_path) == 4
    assert memory_limit_bytes({}, tmp_path) == 2**30
    assert memory_limit_bytes({"SLURM_MEM_PER_NODE": "512"}, tmp_path) == 2**29


@pytest.mark.parametrize("version", [1, 2])
def test_the_limits_of_the_groups_round_ones_own_hold_too(tmp_path, monkeypatch, version):
    """As Slurm does it: the step's group is limited, its tasks' are not."""
    monkeypatch.setattr(resources, "_affinity", lambda: 64)
    monkeypatch.setattr(resources, "_OWN_GROUPS", tmp_path / "self")
    (tmp_path / "self").write_text(
        "0::/job_1/step_0/task_0\n"
        if version == 2
        else "3:cpu,cpuacct:/job_1/step_0/task_0\n2:memory:/job_1/step_0/task_0\n0::/\n"
    )
    cpu, memory = (tmp_path, tmp_path) if version == 2 else (tmp_path / "cpu", tmp_path / "memory")

    def limit(group, cores, memory_bytes):
        for folder in (cpu / group, memory / group):
            folder.mkdir(parents=True, exist_ok=True)
        if version == 2:
            (cpu / group / "cpu.max").write_text(f"{f'{cores}00000' if cores else 'max'} 100000\n")
            (memory / group / "memory.max").write_text(f"{memory_bytes or 'max'}\n")
        else:
            (cpu / group / "cpu.cfs_quota_us").write_text(f"{cores}00000" if cores else "-1")
            (cpu / group / "cpu.cfs_period_us").write_text("100000")
            (memory / group / "memory.limit_in_bytes").write_text(str(memory_bytes or 2**63 - 4096))

    limit("job_1/step_0/task_0", None, None)
    limit("job_1/step_0", 3, 2**30)
    limit("job_1", 4, 2**29)
    assert cpu_limit({}, tmp_path) == 3 and memory_limit_bytes({}, tmp_path) == 2**29
    limit("job_1/step_0/task_0", 2, 2**28)
    assert cpu_limit({}, tmp_path) == 2 and memory_limit_bytes({}, tmp_path) == 2**28


def test_affinity_counts():
    assert 1 <= cpu_limit() <= len(os.sched_getaffinity(0))


def test_several_workers_feed_a_gpu_and_none_is_without_a_core(monkeypatch):
    monkeypatch.setattr(dask_cluster, "cpu_limit", lambda: 20)
    monkeypatch.setattr(dask_cluster, "memory_limit_bytes", lambda: 100 * 2**30)
    assert [dask_cluster.default_workers(gpus) for gpus in (0, 1, 2, 4)] == [20, 8, 16, 20]
    monkeypatch.setattr(dask_cluster, "cpu_limit", lambda: 2)
    assert [dask_cluster.default_workers(gpus) for gpus in (0, 1, 4)] == [2, 2, 4]


def test_each_worker_sees_one_gpu():
    assert dask_cluster._worker_environment("3")["CUDA_VISIBLE_DEVICES"] == "3"
    assert isinstance(visible_gpus(), list)


def test_without_gpus_workers_see_none(monkeypatch):
    monkeypatch.setattr(dask_cluster, "visible_gpus", lambda: ["0", "1"])
    executor = connect_executor(RunOptions(gpus=0, workers=1))
    try:
        executor.submit("env", environment, None)
        assert results_of(executor, 1)["env"].value["CUDA_VISIBLE_DEVICES"] == ""
        assert executor.description == "1 local worker on the CPU"
    finally:
        executor.close()
