"""Start worker processes from a fork server, which imports the heavy libraries once.

Workers are never forked from the run's own process, because its threads and GPU would not survive
the fork. This module imports little, because the server is started before this process loads its
own libraries.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing import forkserver
from typing import Any

from ..import_path import secure_child_imports

#: How dask starts processes. Without a fork server (Windows) each process loads torch itself.
START_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
_COMMON_MODULES = ["distributed", "hemax_batch.scheduling.preload"]
_PRELOAD = {
    "torch": [
        *_COMMON_MODULES,
        "hemax_batch.model.engines.torch_engine",
        "hemax_batch.model.hemax",
        "safetensors.torch",
    ],
    "openvino": _COMMON_MODULES,
}
#: One thread for every numeric library, because there is a worker per core.
SINGLE_THREAD_ENV = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"
)


def start_forkserver(engine: str) -> None:
    """Start the server if it is not running.

    The server loads its modules in the background. It ends with this process.
    """
    if START_METHOD != "forkserver":
        return
    before = {name: os.environ.get(name) for name in SINGLE_THREAD_ENV}
    os.environ.update(SINGLE_THREAD_ENV)
    try:
        forkserver.set_forkserver_preload(_PRELOAD[engine])
        with secure_child_imports():
            forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def process_context(fork: bool = False) -> Any:
    """Return the `multiprocessing` context for new processes. They import nothing from the current folder."""
    if not fork and START_METHOD == "forkserver":
        with secure_child_imports():
            forkserver.ensure_running()
    return multiprocessing.get_context("fork" if fork else START_METHOD)


def exit_with_parent() -> None:
    """Make a new process end when the run's process ends, even if that is killed."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    """End this process when its parent has ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(0)
