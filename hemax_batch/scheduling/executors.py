"""Run tasks in this process or on the workers of a dask cluster.

Both executors have the same methods (`submit`, `wait`, `in_flight`, `capacity`, `close`). A task
gives the same result on either. The scheduler carries only small records, because a task reads its
own pixels.
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

TASKS_PER_WORKER = 4  # in flight: a worker always has a next task, and the graph stays small
# Time without any worker while tasks wait. An elastic cluster may need long to start workers.
_NO_WORKERS_TIMEOUT_S = 600
_SCHEDULER_LOST = (
    "the dask scheduler is lost; finished regions are kept: run again to continue from there"
)
_MAX_GPU_LOSSES = 2  # a new process may find the GPU working; a second loss retires it
Task = Callable[[Any], Any]


@dataclass(frozen=True)
class TaskResult:
    """A task that has ended: its tag, and its value or its error."""

    tag: Any
    value: Any = None
    error: BaseException | None = None


class TaskTimedOut(Exception):
    """A task took too long. Its worker has ended itself."""


class WorkerDied(Exception):
    """The worker of a task died, more than once."""


class SerialExecutor:
    """Runs tasks one by one in this process, in the order of submission, urgent ones first.

    Attributes
    ----------
    watchdog
        Called with a task's tag. Returns the context in which the task runs.
    """

    capacity = 1
    out_of_process = False
    description, warning = "this process alone", ""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Any, Task, Any]] = deque()
        self.watchdog: Callable[[Any], AbstractContextManager[None]] = nullcontext

    @property
    def in_flight(self) -> int:
        """Number of tasks that have not run."""
        return len(self._waiting)

    def submit(self, tag: Any, function: Task, argument: Any, urgent: bool = False) -> None:
        """Queue `function(argument)`."""
        (self._waiting.appendleft if urgent else self._waiting.append)((tag, function, argument))

    def wait(self, timeout_s: float) -> list[TaskResult]:
        """Run the next task. `timeout_s` does not interrupt it."""
        if not self._waiting:
            return []
        tag, function, argument = self._waiting.popleft()
        try:
            with self.watchdog(tag):
                return [TaskResult(tag, function(argument))]
        except Exception as error:
            return [TaskResult(tag, error=error)]

    def close(self) -> None:
        """Drop the tasks that have not run."""
        self._waiting.clear()


class DaskExecutor:
    """Runs tasks on dask workers.

    A task whose worker dies is run again, as often as dask's `allowed-failures` says. `cluster` is
    the local cluster, or None for a cluster that existed before.
    """

    out_of_process = True  # a task may end the process that it runs in

    def __init__(self, client: Any, cluster: Any, description: str, warning: str = "") -> None:
        self._client = client
        self._cluster = cluster
        self._finished: queue.SimpleQueue[tuple[str, TaskTimedOut | None]] = queue.SimpleQueue()
        self._futures: dict[str, tuple[Any, Any]] = {}
        self._run = uuid.uuid4().hex  # separates the tasks of two runs on one cluster
        self._count = 0
        self._gpu_losses: Counter[str] = Counter()
        self._threads_known: tuple[float, int] = (float("-inf"), 1)
        self._last_progress = time.monotonic()
        self.description, self.warning = description, warning
        client.subscribe_topic(HUNG_TASK_TOPIC, self._on_hung_task)

    @property
    def capacity(self) -> int:
        """How many tasks should be in flight. It follows workers that join and leave."""
        return TASKS_PER_WORKER * max(1, self._threads())

    def _threads(self) -> int:
        """Return the threads of all workers, at most a second old.

        Raises HemaxError if the scheduler does not answer.
        """
        updated_at, threads = self._threads_known
        if time.monotonic() - updated_at > 1.0:
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
        """Number of tasks that have not ended."""
        return len(self._futures)

    def submit(self, tag: Any, function: Task, argument: Any, urgent: bool = False) -> None:
        """Send `function(argument)` to the workers. Urgent tasks are run before waiting ones."""
        self._count += 1
        key = f"{function.__name__}-{self._run}-{self._count}"
        future = self._client.submit(
            function, argument, key=key, pure=False, priority=10 if urgent else 0
        )
        self._futures[key] = (tag, future)
        future.add_done_callback(lambda done: self._finished.put((done.key, None)))

    def _on_hung_task(self, event: tuple[float, dict[str, Any]]) -> None:
        """Handle a worker's message that it ends itself because a task hangs."""
        key, seconds = event[1]["key"], event[1]["seconds"]
        error = TaskTimedOut(f"took longer than {seconds:g} s; its worker process was ended")
        self._finished.put((key, error))

    def wait(self, timeout_s: float) -> list[TaskResult]:
        """Return the tasks that have ended, after at most `timeout_s`.

        Raises HemaxError if the scheduler is lost, or if all workers are lost and none comes.
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
        results = []
        for key, timeout in finished:
            if key in self._futures:
                tag, future = self._futures.pop(key)
                results.append(self._collect(tag, future, timeout))
        return results

    def _check_workers(self) -> None:
        """Raise HemaxError if tasks wait and there was no worker for too long."""
        if self._threads() or not self._futures:
            self._last_progress = time.monotonic()
        elif time.monotonic() - self._last_progress > _NO_WORKERS_TIMEOUT_S:
            raise HemaxError(
                f"{self.description}: all workers are lost and none came for "
                f"{_NO_WORKERS_TIMEOUT_S:g} s; finished regions are kept: run again once there are "
                "workers"
            )

    def _collect(self, tag: Any, future: Any, timeout: TaskTimedOut | None) -> TaskResult:
        """Return the result of a future and release it."""
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
                "the dask scheduler dropped a task (was it restarted?); finished regions are kept: "
                "run again to continue"
            ) from error
        except Exception as error:
            return TaskResult(tag, error=error)
        finally:
            future.release()

    def retire_gpu(self, lost: GpuLostError, use_cpu: bool) -> str:
        """Keep tasks from a GPU that was lost twice.

        The workers of a local cluster continue without a GPU if `use_cpu`, else they end. A worker
        of an existing cluster always ends.

        Returns
        -------
        str
            What was done, in words. "" if nothing was done yet.

        Raises
        ------
        HemaxError
            No worker is left.
        """
        name = str(lost).partition(":")[0]
        self._gpu_losses[name] += 1
        if self._gpu_losses[name] < _MAX_GPU_LOSSES:
            return ""
        if self._cluster is None:
            self._client.retire_workers([lost.worker], close_workers=True)
            return "its worker is retired"
        for worker, spec in list(self._cluster.worker_spec.items()):
            if spec["options"]["env"].get("CUDA_VISIBLE_DEVICES") == lost.gpu:
                self._detach_gpu(worker, use_cpu)
        if self._cluster.worker_spec:
            return (
                "its workers continue without it, on the CPU"
                if use_cpu
                else "its workers are retired"
            )
        raise HemaxError(
            f"{lost}; no GPU is left; finished regions are kept: run again once the GPU works, "
            "or with --on-gpu-loss cpu"
        )

    def _detach_gpu(self, name: int, use_cpu: bool) -> None:
        """Hide the GPU from the next process of a worker, or remove the worker."""
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
        """Start the workers again that dask gave up, in dask's loop.

        A nanny does not restart a worker that dies while it starts.
        """
        from distributed.core import Status

        for name, nanny in list(self._cluster.workers.items()):
            if nanny.status in (Status.closed, Status.failed):
                del self._cluster.workers[name]
        if set(self._cluster.worker_spec) - set(self._cluster.workers):
            self._cluster.scale(len(self._cluster.worker_spec))

    def close(self) -> None:
        """Drop waiting tasks and leave the cluster. A local cluster is ended.

        A cluster may not answer, for example while it restarts a worker. It then ends with this
        process. The results are complete by then.
        """
        for _, future in self._futures.values():
            future.release()
        self._futures.clear()
        with suppress(Exception):
            self._client.close(timeout=5)
        if self._cluster is not None:
            with suppress(Exception):
                self._cluster.close(timeout=10)


Executor = DaskExecutor | SerialExecutor
