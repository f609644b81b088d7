"""Connect to what runs the tasks: this process, a local dask cluster, or an existing cluster."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from ..bounded_files import read_json
from ..errors import HemaxError, UsageError
from ..settings import RunOptions, TlsFiles
from .executors import DaskExecutor, SerialExecutor
from .forkserver import SINGLE_THREAD_ENV, START_METHOD, start_forkserver
from .resources import cpu_limit, memory_limit_bytes, visible_gpus

if TYPE_CHECKING:
    from distributed.security import Security

_MIN_WORKER_BYTES = 1.5 * 2**30  # torch, the weights and a region's pixels
_WORKERS_PER_GPU = (
    8  # reading, screening and drawing take ten times as long as a GPU's look; 0.7 GB of it each
)
_UNENCRYPTED = (
    "dask scheduler {}: without TLS, whoever reaches its port can run code in its workers and in this process; "
    "use --tls CA CERT KEY"
)
_CONNECT_TIMEOUT_S = 30
_FIRST_WORKER_TIMEOUT_S = 120  # until a cluster has its first worker
Cluster = TypeVar("Cluster")


def connect_executor(options: RunOptions, engine: str = "torch") -> DaskExecutor | SerialExecutor:
    """Return the executor that `options` ask for.

    Raises
    ------
    UsageError
        An existing cluster cannot be reached.
    """
    if options.scheduler or options.scheduler_file:
        return _existing_cluster(options)
    gpus = visible_gpus()[: options.gpus] if engine == "torch" else []
    workers = options.workers if options.workers is not None else default_workers(len(gpus))
    if workers == 0:
        return SerialExecutor()
    return _local_cluster(workers, gpus, engine)


def default_workers(gpus: int = 0) -> int:
    """Return the number of worker processes: one per core, limited by memory and by GPUs."""
    most = gpus * _WORKERS_PER_GPU or cpu_limit()
    return max(gpus, 1, min(cpu_limit(), most, int(memory_limit_bytes() // _MIN_WORKER_BYTES)))


def _local_cluster(workers: int, gpus: list[str], engine: str) -> DaskExecutor:
    """Start single-threaded worker processes on the loopback interface.

    The GPUs are given to the workers in turn.
    """
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


def _temporary_security() -> object:
    """Certificates for this run's own processes, kept in memory. Whoever else connects is turned away."""
    from distributed.security import Security

    try:
        return Security.temporary()
    except ImportError as error:
        raise HemaxError(
            f"the local workers need the package `cryptography` for their certificates ({error}); install it, or use "
            "--workers 0"
        ) from error


def _start_cluster(make: Callable[[], Cluster]) -> Cluster:
    """Start the cluster, with at most three attempts.

    A worker that dies while it starts makes the whole start fail.
    """
    for tries_left in (2, 1, 0):
        try:
            return make()
        except (RuntimeError, OSError, TimeoutError) as error:
            if not tries_left:
                raise HemaxError(
                    f"the worker processes cannot be started ({error}); check memory and limits with "
                    "`hemax-batch doctor`, or use --workers 0"
                ) from error
    raise AssertionError("unreachable")


def _worker_memory_limit(workers: int) -> int:
    """Return the memory at which a worker is ended: its share, or the least that it needs.

    Without a limit the kernel would end any process when memory is full, perhaps this one.
    """
    return int(max(memory_limit_bytes() / workers, _MIN_WORKER_BYTES))


def _worker_environment(gpu: str) -> dict[str, str]:
    """Return a worker's environment: one thread, and its own GPU alone ("" for none)."""
    return SINGLE_THREAD_ENV | {"CUDA_VISIBLE_DEVICES": gpu}


def _existing_cluster(options: RunOptions) -> DaskExecutor:
    """Connect to the cluster that `options` name and wait for its first worker."""
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
    """Return the scheduler's address, or "" if its file is missing or invalid."""
    if options.scheduler:
        return options.scheduler
    if options.scheduler_file is None:
        return ""
    try:
        return str(read_json(options.scheduler_file)["address"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _security(tls: TlsFiles | None) -> Security | None:
    """Return the security settings of an encrypted cluster."""
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
    """Set dask's configuration in this process and its workers. No configuration file is used."""
    import dask
    import distributed.utils  # its import sets the loggers' levels, which change below

    settings = {
        "distributed.worker.multiprocessing-method": START_METHOD,
        "distributed.scheduler.allowed-failures": 1,
        "distributed.worker.daemon": True,
        # Tasks return little, so spilling frees nothing, and a paused worker would never continue.
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": 0.95,
        # A region holds the interpreter for long times, and nobody watches a dashboard.
        "distributed.admin.tick.limit": "60s",
        "distributed.admin.tick.interval": "1s",
        "distributed.admin.system-monitor.interval": "5s",
        "distributed.worker.profile.enabled": False,
        # A worker takes one region at a time. A region that waits behind a long one, while another
        # worker is idle, would delay the slide's end.
        "distributed.scheduler.worker-saturation": 1.0,
    }
    if local:  # a dead worker's port stays dead, and the default delays all others by twice 30 s
        settings |= {"distributed.comm.timeouts.connect": "5s", "distributed.comm.retry.count": 0}
        # a new process may take long on a loaded machine, and would be dropped meanwhile
        # what its HTTP servers would tell, or let be done, is for nobody
        settings |= {"distributed.scheduler.http.routes": [], "distributed.worker.http.routes": []}
        settings |= {"distributed.nanny.http.routes": []}
        settings |= {"distributed.deploy.lost-worker-timeout": "600s"}
    dask.config.set(settings)
    # dask would also load pandas and more into the fork server. `forkserver` does the preloading.
    distributed.utils._forkserver_preload_set = True
    # Errors that matter are raised and reported once.
    for name in ("", ".client", ".core", ".worker", ".nanny", ".scheduler"):
        logging.getLogger(f"distributed{name}").setLevel(logging.CRITICAL)
