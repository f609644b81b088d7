"""Where tasks run: in this process, on a local dask cluster sized to what the job may use, or on a cluster that exists.

Both executors have the same few calls (`submit`, `wait`, `in_flight`, `capacity`, `close`), and a task gives the same
result on either. The scheduler carries only small records: a task reads its own pixels.
"""

from __future__ import annotations

import logging
import queue
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any

from ..errors import HemaxError, UsageError
from ..settings import RunOptions, TlsFiles
from .resources import cpu_limit, memory_limit_bytes, visible_gpus

AHEAD = 4  # tasks in flight per worker: the next ones are there when one ends, and the graph stays small
_WORKER_BYTES = 1.5 * 2**30  # torch, the weights and a region's pixels
_CONNECT_TIMEOUT_S = 30
_JOIN_TIMEOUT_S = 120  # for the first worker of a cluster to appear


@dataclass(frozen=True)
class Finished:
    """A task that has ended: its tag, and either its value or its error. `lost`: its worker died, more than once."""

    tag: Any
    value: Any = None
    error: BaseException | None = None
    lost: bool = False


class SerialExecutor:
    """Runs tasks one by one in this process, in the order of submission, urgent ones first."""

    capacity = 1
    workers = 0
    description = "this process alone"

    def __init__(self):
        self._waiting: deque = deque()

    @property
    def in_flight(self) -> int:
        return len(self._waiting)

    def submit(self, tag: Any, function: Callable, argument: Any, urgent: bool = False) -> None:
        """Queue `function(argument)`."""
        (self._waiting.appendleft if urgent else self._waiting.append)((tag, function, argument))

    def wait(self, timeout_s: float) -> list[Finished]:
        """Run the next task; `timeout_s` does not interrupt it."""
        if not self._waiting:
            return []
        tag, function, argument = self._waiting.popleft()
        try:
            return [Finished(tag, function(argument))]
        except Exception as error:
            return [Finished(tag, error=error)]

    def close(self) -> None:
        """Forget what has not been run."""
        self._waiting.clear()


class DaskExecutor:
    """Runs tasks on dask workers. A task whose worker dies is done again, as often as `allowed-failures` says."""

    def __init__(self, client, cluster, description: str):
        self._client = client
        self._cluster = cluster
        self._done: queue.SimpleQueue = queue.SimpleQueue()
        self._futures: dict[Any, Any] = {}
        self._count = 0
        self.description = description

    @property
    def workers(self) -> int:
        return max(1, len(self._client.nthreads()))

    @property
    def capacity(self) -> int:
        """How many tasks should be in flight: follows workers that join and leave."""
        return AHEAD * max(1, sum(self._client.nthreads().values()))

    @property
    def in_flight(self) -> int:
        return len(self._futures)

    def submit(self, tag: Any, function: Callable, argument: Any, urgent: bool = False) -> None:
        """Send `function(argument)` to the workers; urgent tasks overtake those that wait."""
        self._count += 1
        key = f"{function.__name__}-{self._count}"
        future = self._client.submit(function, argument, key=key, pure=False, priority=10 if urgent else 0)
        self._futures[key] = (tag, future)
        future.add_done_callback(lambda done: self._done.put(done.key))

    def wait(self, timeout_s: float) -> list[Finished]:
        """Tasks that have ended, after at most `timeout_s`; [] without any. HemaxError if the scheduler is lost."""
        ended = []
        try:
            ended.append(self._done.get(timeout=timeout_s))
            while True:
                ended.append(self._done.get_nowait())
        except queue.Empty:
            pass
        if self._client.status in ("closed", "closing"):
            raise HemaxError("the dask scheduler is lost; what is finished is kept: run again to go on from there")
        return [self._collect(*self._futures.pop(key)) for key in ended if key in self._futures]

    def _collect(self, tag: Any, future) -> Finished:
        from distributed.scheduler import KilledWorker

        try:
            return Finished(tag, future.result(timeout=60))
        except KilledWorker as error:
            return Finished(tag, error=error, lost=True)
        except CancelledError as error:
            raise HemaxError(
                "the dask scheduler dropped a task (was it restarted?); what is finished is kept: run again to go on"
            ) from error
        except Exception as error:
            return Finished(tag, error=error)
        finally:
            future.release()

    def close(self) -> None:
        """Drop what is waiting and leave the cluster; a local one is ended."""
        for _, future in self._futures.values():
            future.release()
        self._futures.clear()
        self._client.close(timeout=5)
        if self._cluster is not None:
            self._cluster.close(timeout=10)


def connect(options: RunOptions) -> DaskExecutor | SerialExecutor:
    """The executor that `options` ask for. UsageError where an existing cluster cannot be reached."""
    if options.scheduler or options.scheduler_file:
        return _existing(options)
    gpus = visible_gpus()[: options.gpus]
    workers = options.workers if options.workers is not None else (len(gpus) or default_workers())
    if workers == 0:
        return SerialExecutor()
    return _local(workers, gpus)


def default_workers() -> int:
    """Worker processes on the CPU: one a core that we may use, as far as memory goes."""
    return max(1, min(cpu_limit(), int(memory_limit_bytes() // _WORKER_BYTES)))


def _local(workers: int, gpus: list[str]) -> DaskExecutor:
    """A cluster of single-threaded processes on the loopback interface, one a GPU in turn where there are any."""
    _configure(local=True)
    from distributed import Client, Nanny, Scheduler, SpecCluster

    specs = {
        i: {"cls": Nanny, "options": {
            "nthreads": 1, "host": "127.0.0.1", "env": _worker_environment(gpus[i % len(gpus)] if gpus else None),
            "dashboard": False, "memory_limit": 0, "silence_logs": logging.CRITICAL,
        }}
        for i in range(workers)
    }  # fmt: skip
    loopback = {"host": "127.0.0.1", "dashboard": False, "dashboard_address": "127.0.0.1:0"}
    scheduler = {"cls": Scheduler, "options": loopback}
    cluster = SpecCluster(specs, scheduler, name="hemax-batch", silence_logs=logging.ERROR)
    where = f"on GPU {', '.join(gpus)}" if gpus else "on the CPU"
    return DaskExecutor(Client(cluster), cluster, f"{workers} local worker{'s' if workers > 1 else ''} {where}")


def _worker_environment(gpu: str | None) -> dict[str, str]:
    """One thread for every numeric library, as there is a worker per core; this worker's own GPU."""
    env = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1")
    if gpu is not None:
        env["CUDA_VISIBLE_DEVICES"] = gpu
    return env


def _existing(options: RunOptions) -> DaskExecutor:
    _configure(local=False)
    from distributed import Client

    where = options.scheduler or str(options.scheduler_file)
    try:
        client = Client(
            options.scheduler, scheduler_file=options.scheduler_file and str(options.scheduler_file),
            security=_security(options.tls), timeout=_CONNECT_TIMEOUT_S, set_as_default=False,
        )  # fmt: skip
        client.wait_for_workers(1, timeout=_JOIN_TIMEOUT_S)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"dask scheduler {where}: cannot be used ({error}); is it running, and has it workers?"
        ) from error
    return DaskExecutor(client, None, f"dask scheduler {where}")


def _security(tls: TlsFiles | None):
    if tls is None:
        return None
    from distributed.security import Security

    return Security(
        require_encryption=True, tls_ca_file=str(tls.ca), tls_client_cert=str(tls.cert), tls_client_key=str(tls.key)
    )


def _configure(local: bool) -> None:
    """Dask's settings for this process and the workers that it starts; no configuration file is touched."""
    import dask

    settings = {
        "distributed.worker.multiprocessing-method": "spawn",  # forking after CUDA has started is unsupported
        "distributed.scheduler.allowed-failures": 1,
        "distributed.worker.daemon": True,
        "distributed.admin.tick.limit": "60s",  # a region holds the interpreter for long stretches, and that is fine
    }
    if local:  # a dead worker's port on this machine stays dead: knocking for 30 s, twice, held up all the others
        settings |= {"distributed.comm.timeouts.connect": "5s", "distributed.comm.retry.count": 0}
    dask.config.set(settings)
    for name in ("distributed", "distributed.worker", "distributed.nanny", "distributed.scheduler"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
