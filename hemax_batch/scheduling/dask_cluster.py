"""Where tasks run: in this process, on a local dask cluster sized to what the job may use, or on a cluster that exists."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ..bounded_files import read_json
from ..errors import HemaxError, UsageError
from ..settings import RunOptions, TlsFiles
from .executors import DaskExecutor, SerialExecutor
from .forkserver import SINGLE_THREAD_ENV, START_METHOD, start_forkserver
from .resources import cpu_limit, memory_limit_bytes, visible_gpus

_MIN_WORKER_BYTES = 1.5 * 2**30  # torch, the weights and a region's pixels
_WORKERS_PER_GPU = (
    8  # reading, screening and drawing take ten times as long as a GPU's look; 0.7 GB of it each
)
_UNENCRYPTED = (
    "dask scheduler {}: without TLS, whoever reaches its port can run code in its workers and in this process; "
    "use --tls CA CERT KEY"
)
_CONNECT_TIMEOUT_S = 30
_FIRST_WORKER_TIMEOUT_S = 120  # for the first worker of a cluster to appear


def connect_executor(options: RunOptions, engine: str = "torch") -> DaskExecutor | SerialExecutor:
    """The executor that `options` ask for. UsageError where an existing cluster cannot be reached."""
    if options.scheduler or options.scheduler_file:
        return _existing_cluster(options)
    gpus = visible_gpus()[: options.gpus] if engine == "torch" else []
    workers = options.workers if options.workers is not None else default_workers(len(gpus))
    if workers == 0:
        return SerialExecutor()
    return _local_cluster(workers, gpus, engine)


def default_workers(gpus: int = 0) -> int:
    """Worker processes: one a core that we may use, as far as memory goes; no more than a GPU has room and work for."""
    most = gpus * _WORKERS_PER_GPU or cpu_limit()
    return max(gpus, 1, min(cpu_limit(), most, int(memory_limit_bytes() // _MIN_WORKER_BYTES)))


def _local_cluster(workers: int, gpus: list[str], engine: str) -> DaskExecutor:
    """A cluster of single-threaded processes on the loopback interface, each with a GPU in turn where there are any."""
    start_forkserver(engine)
    _configure(local=True)
    from distributed import Client, Nanny, Scheduler, SpecCluster

    security = _temporary_security()
    specs = {
        i: {
            "cls": Nanny,
            "options": {
                "nthreads": 1,
                "host": "127.0.0.1",
                "protocol": "tls://",
                "security": security,
                "env": _worker_environment(gpus[i % len(gpus)] if gpus else ""),
                "dashboard": False,
                "memory_limit": _worker_memory_limit(workers),
                "silence_logs": logging.CRITICAL,
            },
        }
        for i in range(workers)
    }
    loopback = {
        "host": "127.0.0.1",
        "protocol": "tls://",
        "security": security,
        "dashboard": False,
        "dashboard_address": "127.0.0.1:0",
    }
    scheduler = {"cls": Scheduler, "options": loopback}
    cluster = _start_cluster(
        lambda: SpecCluster(
            specs, scheduler, security=security, name="hemax-batch", silence_logs=logging.CRITICAL
        )
    )
    where = f"on GPU {', '.join(gpus)}" if gpus else "on the CPU"
    return DaskExecutor(
        Client(cluster), cluster, f"{workers} local worker{'s' if workers > 1 else ''} {where}"
    )


def _temporary_security() -> Any:
    """Certificates for this run's own processes, kept in memory. Whoever else connects is turned away."""
    from distributed.security import Security

    try:
        return Security.temporary()
    except ImportError as error:
        raise HemaxError(
            f"the local workers need the package `cryptography` for their certificates ({error}); install it, or use "
            "--workers 0"
        ) from error


def _start_cluster(make: Callable[[], Any]) -> Any:
    """The cluster, at the third try at most: a worker that dies while it starts takes the start with it."""
    for tries_left in (2, 1, 0):
        try:
            return make()
        except (RuntimeError, OSError, TimeoutError) as error:
            if not tries_left:
                raise HemaxError(
                    f"the worker processes cannot be started ({error}); check memory and limits with "
                    "`hemax-batch doctor`, or use --workers 0"
                ) from error


def _worker_memory_limit(workers: int) -> int:
    """Memory at which a worker is ended: its share, or what it needs at least.

    Without a limit the kernel chooses whom to end when memory is gone, and that may be this process.
    """
    return int(max(memory_limit_bytes() / workers, _MIN_WORKER_BYTES))


def _worker_environment(gpu: str) -> dict[str, str]:
    """One thread; this worker's own GPU, and no other; "": none."""
    return SINGLE_THREAD_ENV | {"CUDA_VISIBLE_DEVICES": gpu}


def _existing_cluster(options: RunOptions) -> DaskExecutor:
    _configure(local=False)
    from distributed import Client

    where = options.scheduler or str(options.scheduler_file)
    if options.tls is None and _address(options).startswith("tls://"):
        raise UsageError(
            f"dask scheduler {where}: is encrypted; give its certificates with --tls CA CERT KEY"
        )
    try:
        client = Client(
            options.scheduler,
            scheduler_file=options.scheduler_file and str(options.scheduler_file),
            security=_security(options.tls),
            timeout=_CONNECT_TIMEOUT_S,
            set_as_default=False,
        )
        client.wait_for_workers(1, timeout=_FIRST_WORKER_TIMEOUT_S)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"dask scheduler {where}: cannot be used ({error}); is it running, and has it workers?"
        ) from error
    warning = "" if options.tls else _UNENCRYPTED.format(where)
    return DaskExecutor(client, None, f"dask scheduler {where}", warning)


def _address(options: RunOptions) -> str:
    """The scheduler's address, as far as it is known yet; "" where its file is not there or not sound."""
    if options.scheduler:
        return options.scheduler
    try:
        return str(read_json(options.scheduler_file)["address"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _security(tls: TlsFiles | None):
    if tls is None:
        return None
    from distributed.security import Security

    return Security(
        require_encryption=True,
        tls_ca_file=str(tls.ca),
        tls_client_cert=str(tls.cert),
        tls_client_key=str(tls.key),
    )


def _configure(local: bool) -> None:
    """Dask's settings for this process and the workers that it starts; no configuration file is touched."""
    import dask
    import distributed.utils  # gives its loggers their levels when it is imported, so before they are changed

    settings = {
        "distributed.worker.multiprocessing-method": START_METHOD,
        "distributed.scheduler.allowed-failures": 1,
        "distributed.worker.daemon": True,
        # tasks bring back little, so spilling frees nothing, and a paused worker would wait for ever
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": 0.95,
        "distributed.admin.tick.limit": "60s",  # a region holds the interpreter for long stretches, and that is fine
        "distributed.admin.tick.interval": "1s",  # nobody looks at a dashboard: not fifty times a second
        "distributed.admin.system-monitor.interval": "5s",
        "distributed.worker.profile.enabled": False,
        # a region at a time: one that waits behind a long one, while another worker is idle, would make the slide's end late
        "distributed.scheduler.worker-saturation": 1.0,
    }
    if local:  # a dead worker's port on this machine stays dead: knocking for 30 s, twice, held up all the others
        settings |= {"distributed.comm.timeouts.connect": "5s", "distributed.comm.retry.count": 0}
        # a new process may take long on a loaded machine, and would be dropped meanwhile
        # what its HTTP servers would tell, or let be done, is for nobody
        settings |= {"distributed.scheduler.http.routes": [], "distributed.worker.http.routes": []}
        settings |= {"distributed.nanny.http.routes": []}
        settings |= {"distributed.deploy.lost-worker-timeout": "600s"}
    dask.config.set(settings)
    # it would import pandas and more here, to have the server for processes import them too; that is `forkserver`'s matter
    distributed.utils._forkserver_preload_set = True
    for name in (
        "",
        ".client",
        ".core",
        ".worker",
        ".nanny",
        ".scheduler",
    ):  # what matters is raised, and said once
        logging.getLogger(f"distributed{name}").setLevel(logging.CRITICAL)
