"""Where Python looks for modules: never in the current folder, which may hold anybody's `numpy.py`.

Slides are often processed from the folder in which they lie. Python adds that folder to its search path for
`python -m`, `python -c` (with which `multiprocessing` starts processes) and for empty or relative entries of PYTHONPATH.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_PACKAGE_PARENT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@contextmanager
def secure_child_imports() -> Iterator[None]:
    """Have Python processes that are started in this block import from absolute folders alone, and their children too.

    The environment is as before afterwards: a program that calls this package keeps its own.
    """
    names = ("PYTHONSAFEPATH", "PYTHONPATH")
    before = {name: os.environ.get(name) for name in names}
    kept = [
        entry for entry in (before["PYTHONPATH"] or "").split(os.pathsep) if os.path.isabs(entry)
    ]
    os.environ["PYTHONSAFEPATH"] = "1"
    os.environ.pop("PYTHONPATH", None)
    if kept:
        os.environ["PYTHONPATH"] = os.pathsep.join(kept)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def secure_own_imports(started_with_m: bool = False) -> None:
    """Drop the current folder from this process's search path where Python itself put it there.

    started_with_m  `python -m` put it first. It stays where this package itself was imported from it.
    """
    here = os.getcwd()
    entries = (
        os.environ.get("PYTHONPATH", "").split(os.pathsep) if "PYTHONPATH" in os.environ else []
    )
    wanted = {os.path.normpath(entry) for entry in entries if os.path.isabs(entry)} | {
        _PACKAGE_PARENT
    }
    unwanted = {os.path.abspath(entry) for entry in entries if not os.path.isabs(entry)}
    if started_with_m and not sys.flags.safe_path:
        unwanted.add(here)
    sys.path[:] = [p for p in sys.path if p and (p in wanted or p not in unwanted)]
