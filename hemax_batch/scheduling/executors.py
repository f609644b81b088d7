"""Who runs tasks: this process, or the workers of a dask cluster.

Both executors have the same few calls (`submit`, `wait`, `in_flight`, `capacity`, `close`), and a task gives the same
result on either. The scheduler carries only small records: a task reads its own pixels.
"""

from __future__ import annotations

import queue
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

from ..errors import GpuLostError, HemaxError
from ..inference.watchdog import HUNG_TASK_TOPIC

TASKS_PER_WORKER = 4  # tasks in flight per worker: the next ones are there when one ends, and the graph stays small
_NO_WORKERS_TIMEOUT_S = 600  # without any worker while tasks wait: an elastic cluster may take its time, a dead one never ends
_SCHEDULER_LOST = (
    "the dask scheduler is lost; what is finished is kept: run again to go on from there"
)
_MAX_GPU_LOSSES = (
    2  # a new process may find a GPU well whose last one was lost; a second loss retires it
)


@dataclass(frozen=True)
class TaskResult:
    """A task that has ended: its tag, and either its value or its error."""

    tag: Any
    value: Any = None
    error: BaseException | None = None


class TaskTimedOut(Exception):
    """A task took longer than it may; its worker has ended itself."""


class WorkerDied(Exception):
    """A task's worker died, more than once."""


class SerialExecutor:
    """Runs tasks one by one in this process, in the order of submission, urgent ones first.

    watch: called with a task's tag, gives the context in which it runs.
    """

    capacity = 1
    out_of_process = False
    description, warning = "this process alone", ""

    def __init__(self):
        self._waiting: deque = deque()
        self.watchdog: Callable[[Any], AbstractContextManager] = nullcontext

    @property
    def in_flight(self) -> int:
        return len(self._waiting)

    def submit(self, tag: Any, function: Callable, argument: Any, urgent: bool = False) -> None:
        """Queue `function(argument)`."""
        (self._waiting.appendleft if urgent else self._waiting.append)((tag, function, argument))

    def wait(self, timeout_s: float) -> list[TaskResult]:
        """Run the next task; `timeout_s` does not interrupt it."""
        if not self._waiting:
            return []
        tag, function, argument = self._waiting.popleft()
        try:
            with self.watchdog(tag):
                return [TaskResult(tag, function(argument))]
        except Exception as error:
            return [TaskResult(tag, error=error)]

    def close(self) -> None:
        """Forget what has not been run."""
        self._waiting.clear()


class DaskExecutor:
    """Runs tasks on dask workers. A task whose worker dies is done again, as often as `allowed-failures` says."""

    def __init__(self, client, cluster, description: str, warning: str = ""):
        self._client = client
        self._cluster = cluster
        self._finished: queue.SimpleQueue = queue.SimpleQueue()
        self._futures: dict[Any, Any] = {}
        self._run = (
            uuid.uuid4().hex
        )  # two runs on one cluster must not take each other's tasks for their own
        self._count = 0
        self._gpu_losses: Counter[str] = Counter()
        self._threads_known: tuple[float, int] = (float("-inf"), 1)
        self._last_progress = time.monotonic()
        self.description, self.warning = description, warning
        client.subscribe_topic(HUNG_TASK_TOPIC, self._on_hung_task)

    out_of_process = True  # from this process: a task may end the one that it runs in

    @property
    def capacity(self) -> int:
        """How many tasks should be in flight: follows workers that join and leave."""
        return TASKS_PER_WORKER * max(1, self._threads())

    def _threads(self) -> int:
        """Threads of all workers, as of the last second. HemaxError where the scheduler does not say."""
        asked_at, threads = self._threads_known
        if time.monotonic() - asked_at > 1.0:
            try:
                threads = sum(self._client.nthreads().values())
            except (OSError, TimeoutError, RuntimeError, CancelledError) as error:
                raise HemaxError(_SCHEDULER_LOST) from error
            self._threads_known = (time.monotonic(), threads)
            if self._cluster is not None:
                self._cluster.loop.add_callback(self._restart_failed_workers)
        return threads

    @property
    def in_flight(self) -> int:
        return len(self._futures)

    def submit(self, tag: Any, function: Callable, argument: Any, urgent: bool = False) -> None:
        """Send `function(argument)` to the workers; urgent tasks overtake those that wait."""
        self._count += 1
        key = f"{function.__name__}-{self._run}-{self._count}"
        future = self._client.submit(
            function, argument, key=key, pure=False, priority=10 if urgent else 0
        )
        self._futures[key] = (tag, future)
        future.add_done_callback(lambda done: self._finished.put((done.key, None)))

    def _on_hung_task(self, event: tuple[float, dict]) -> None:
        """A worker says that it ends itself because a task hangs."""
        seconds = event[1]["seconds"]
        self._finished.put(
            (
                event[1]["key"],
                TaskTimedOut(f"took longer than {seconds:g} s; its worker process was ended"),
            )
        )

    def wait(self, timeout_s: float) -> list[TaskResult]:
        """Tasks that have ended, after at most `timeout_s`; [] without any.

        HemaxError if the scheduler is lost, or all workers are and none comes.
        """
        finished = []
        try:
            finished.append(self._finished.get(timeout=timeout_s))
            while True:
                finished.append(self._finished.get_nowait())
        except queue.Empty:
            pass
        if self._client.status in ("closed", "closing"):
            raise HemaxError(_SCHEDULER_LOST)
        self._check_workers()
        return [
            self._collect(*self._futures.pop(key), timeout)
            for key, timeout in finished
            if key in self._futures
        ]

    def _check_workers(self) -> None:
        if self._threads() or not self._futures:
            self._last_progress = time.monotonic()
        elif time.monotonic() - self._last_progress > _NO_WORKERS_TIMEOUT_S:
            raise HemaxError(
                f"{self.description}: all are gone and none has come for {_NO_WORKERS_TIMEOUT_S:g} s; what is finished is "
                "kept: run again once there are workers"
            )

    def _collect(self, tag: Any, future, timeout: TaskTimedOut | None) -> TaskResult:
        from distributed.scheduler import KilledWorker

        try:
            return (
                TaskResult(tag, error=timeout)
                if timeout
                else TaskResult(tag, future.result(timeout=60))
            )
        except KilledWorker:
            return TaskResult(
                tag, error=WorkerDied("every worker process that tried it died (out of memory?)")
            )
        except CancelledError as error:
            raise HemaxError(
                "the dask scheduler dropped a task (was it restarted?); what is finished is kept: run again to go on"
            ) from error
        except Exception as error:
            return TaskResult(tag, error=error)
        finally:
            future.release()

    def retire_gpu(self, lost: GpuLostError, use_cpu: bool) -> str:
        """Keep tasks from a GPU that was lost, once it had its chances; what was done, in words ("" for nothing yet).

        Its workers go on without a GPU if `use_cpu`, else they end; a worker of an existing cluster always does.
        Raises HemaxError where no worker is left.
        """
        name = str(lost).partition(":")[0]
        self._gpu_losses[name] += 1
        if self._gpu_losses[name] < _MAX_GPU_LOSSES:
            return ""
        if self._cluster is None:
            self._client.retire_workers([lost.worker], close_workers=True)
            return "its worker is retired"
        for name, spec in list(self._cluster.worker_spec.items()):
            if spec["options"]["env"].get("CUDA_VISIBLE_DEVICES") == lost.gpu:
                self._detach_gpu(name, use_cpu)
        if self._cluster.worker_spec:
            return (
                "its workers go on without it, on the CPU" if use_cpu else "its workers are retired"
            )
        raise HemaxError(
            f"{lost}; no GPU is left; what is finished is kept: run again once it is well, or with --on-gpu-loss cpu"
        )

    def _detach_gpu(self, name: int, use_cpu: bool) -> None:
        """Have the process that follows a worker's see no GPU, or none follow."""
        nanny = self._cluster.workers.get(name)
        if use_cpu:
            self._cluster.worker_spec[name]["options"]["env"]["CUDA_VISIBLE_DEVICES"] = ""
            if nanny is not None:
                nanny.env["CUDA_VISIBLE_DEVICES"] = ""
            return
        del self._cluster.worker_spec[name]
        if nanny is not None:
            self._cluster.loop.add_callback(nanny.close)

    def _restart_failed_workers(self) -> None:
        """Start workers again that were given up: a nanny leaves alone what dies while it starts. Runs in dask's loop."""
        from distributed.core import Status

        for name, nanny in list(self._cluster.workers.items()):
            if nanny.status in (Status.closed, Status.failed):
                del self._cluster.workers[name]
        if set(self._cluster.worker_spec) - set(self._cluster.workers):
            self._cluster.scale(len(self._cluster.worker_spec))

    def close(self) -> None:
        """Drop what is waiting and leave the cluster; a local one is ended.

        One that does not answer, because a worker of it is just being started anew, ends with this process: the results
        are in place by now, and are no worse for it.
        """
        for _, future in self._futures.values():
            future.release()
        self._futures.clear()
        with suppress(Exception):
            self._client.close(timeout=5)
        if self._cluster is not None:
            with suppress(Exception):
                self._cluster.close(timeout=10)
