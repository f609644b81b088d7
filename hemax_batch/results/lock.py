"""Lock the results folder for one writer. The lock survives crashes, also on NFS.

The lock is a numbered file, `lock.7`, which names its holder. The highest number is the lock in
force. A process takes over a released or stale lock by creating the next number, and only one
process can do so. A file is written aside and then hard-linked into place, so nobody reads half of
it. Hard links are atomic on NFS too, unlike exclusive creation on old versions. The holder of number
n removes the lower ones. The highest stays and is marked as released, so numbers never decrease.

    lock.6  {"host": "lab1", "pid": 4711, "started": "8123455", ...}     crashed: no such process
    lock.7  {"host": "lab1", "pid": 4802, ...}                           holds the lock
"""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..bounded_files import parse_json, read_bounded, read_json
from ..errors import LockedError, OutputError
from .contained_files import create_file

_POLL_S = 0.5
_HALF_WRITTEN_S = 2.0  # exclusive creation: the file exists an instant before its content
_NO_HARD_LINKS = frozenset(
    (
        errno.EPERM,
        errno.ENOTSUP,
        errno.EOPNOTSUPP,
        errno.ENOSYS,
        errno.EMLINK,
        errno.EINVAL,
        errno.EACCES,
    )
)


@dataclass(frozen=True)
class LockHolder:
    """The holder of a lock.

    `started` distinguishes a process from a later one with the same pid. `space` is its pid namespace.
    """

    host: str
    boot: str
    space: str
    pid: int
    started: str
    since: str
    released: bool = False

    @classmethod
    def this_process(cls) -> LockHolder:
        """Return this process as a holder."""
        now = time.strftime("%Y-%m-%d %H:%M:%S%z")
        return cls(
            socket.gethostname(),
            _boot_id(),
            _pid_space(),
            os.getpid(),
            process_start(os.getpid()) or "",
            now,
        )

    def is_dead(self) -> bool:
        """Return whether this holder has certainly ended.

        The result is False for another host or container, whose processes are not visible.
        """
        if self.released:
            return True
        if self.host != socket.gethostname() or self.space != _pid_space():
            return False
        return self.boot != _boot_id() or process_start(self.pid) != self.started


class OutputLock:
    """Holds the results folder during its `with` block.

        with OutputLock(out / ".hemax", wait_s=0):
            ...

    `on_wait` is called while waiting. An exception from it ends the wait.

    Raises LockedError with the holder and the remedy if another run holds the folder after `wait_s`.
    """

    def __init__(
        self, folder: Path, wait_s: float = 0.0, on_wait: Callable[[], object] = bool
    ) -> None:
        self._folder = folder
        self._wait_s = wait_s
        self._on_wait = on_wait
        self._mine: Path | None = None
        self._holder: LockHolder | None = None
        self._thread_lock = threading.Lock()

    def __enter__(self) -> OutputLock:
        deadline = time.monotonic() + self._wait_s
        while not self._try_to_take():
            self._on_wait()
            if time.monotonic() >= deadline:
                raise LockedError(self._explain())
            time.sleep(_POLL_S)
        return self

    def __exit__(self, *_: object) -> None:
        with self._thread_lock, suppress(LockedError, OutputError, OSError):
            if self._mine is not None and self._holder is not None and self._is_held():
                _write_aside(self._mine, replace(self._holder, released=True)).replace(self._mine)
        self._mine = None

    def renew_if_lost(self) -> bool:
        """Take the folder again where the lock's file was removed or replaced; whether that was needed.

        The new number is taken as any other, so that this works only while no other run holds the folder. LockedError
        where one does.
        """
        with self._thread_lock:
            if self._mine is None or self._is_held():
                return False
            if not self._try_to_take():
                self._mine = None
                raise LockedError(
                    f"{self._folder.parent}: the lock of this run was removed, and another run took the results folder; "
                    "this run ends, and what is finished is kept"
                )
            return True

    def _is_held(self) -> bool:
        try:
            return self._mine is not None and LockHolder(**read_json(self._mine)) == self._holder
        except (OSError, ValueError, TypeError):
            return False

    def _try_to_take(self) -> bool:
        """Try to create the next number. Return whether this process holds the lock."""
        highest, holder = self._in_force()
        if holder is not None and not holder.is_dead():
            return False
        wanted = self._folder / f"lock.{highest + 1}"
        wanted.parent.mkdir(exist_ok=True)  # removed during the run, perhaps
        holder = LockHolder.this_process()
        partial = _write_aside(wanted, holder)
        try:
            _create_from(partial, wanted)
        except FileExistsError:
            return False
        except OSError as error:
            raise OutputError(
                f"{self._folder}: cannot create the lock {wanted.name}: {error.strerror}"
            ) from error
        finally:
            partial.unlink(missing_ok=True)
        if self._in_force()[0] != highest + 1:  # a later holder removed the number seen above
            wanted.unlink(missing_ok=True)
            return False
        self._mine, self._holder = wanted, holder
        for number in self._numbers():
            if number <= highest:
                (self._folder / f"lock.{number}").unlink(missing_ok=True)
        return True

    def _numbers(self) -> list[int]:
        """Return the numbers of the lock files, in order."""
        names = (p.name.removeprefix("lock.") for p in self._folder.glob("lock.*"))
        return sorted(int(name) for name in names if name.isdigit())

    def _in_force(self) -> tuple[int, LockHolder | None]:
        """Return the highest number and its holder, or (0, None) without a lock."""
        numbers = self._numbers()
        if not numbers:
            return 0, None
        path = self._folder / f"lock.{numbers[-1]}"
        try:
            return numbers[-1], LockHolder(**parse_json(_read_whole(path)))
        except FileNotFoundError:  # another holder has just followed
            return self._in_force()
        except (ValueError, TypeError) as error:
            raise LockedError(
                f"{path}: this lock is damaged ({error}); if no run uses the folder, delete it"
            ) from error

    def _explain(self) -> str:
        """Return who holds the lock, and what to do."""
        number, holder = self._in_force()
        path = self._folder / f"lock.{number}"
        if holder is None or holder.is_dead():
            return f"{self._folder.parent}: another run took the results folder just now; try again"
        return (
            f"{self._folder.parent}: held by process {holder.pid} on {holder.host} since "
            f"{holder.since}; wait for it (--wait-lock SECONDS), or if it no longer runs there, delete {path}"
        )


def describe_holder(folder: Path) -> str:
    """Describe the holder of the lock in `folder`, with the remedy. "" if nobody holds it.

    Raises LockedError if the lock is damaged.
    """
    lock = OutputLock(folder)
    holder = lock._in_force()[1]
    return "" if holder is None or holder.is_dead() else lock._explain()


def process_start(pid: int) -> str | None:
    """Return when a process started, in the kernel's ticks. None if there is no such process.

    Changes of the clock do not change the ticks.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None if Path("/proc/self/stat").exists() else _process_start_elsewhere(pid)
    fields = text[text.rindex(")") + 2 :].split()  # the name may contain spaces and brackets
    return None if fields[0] == "Z" else fields[19]


def _process_start_elsewhere(pid: int) -> str | None:
    """Return when a process started, on a system without /proc."""
    import psutil

    try:
        return str(round(psutil.Process(pid).create_time()))
    except psutil.NoSuchProcess:
        return None


def _boot_id() -> str:
    """Return an id that changes with every start of the machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _pid_space() -> str:
    """Return the pid namespace of this process."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _read_whole(path: Path) -> str:
    """Return a lock's text. An empty one may be about to be written: it gets a moment."""
    deadline = time.monotonic() + _HALF_WRITTEN_S
    while (
        not (text := read_bounded(path).decode("utf-8")).endswith("}")
        and time.monotonic() < deadline
    ):
        time.sleep(_HALF_WRITTEN_S / 20)
    return text


def _create_from(partial: Path, wanted: Path) -> None:
    """Create `wanted` with the content of `partial`. FileExistsError if another process was first.

    A file system without hard links (exFAT, SMB, gcsfuse) creates the file exclusively. Nobody sees half of it for
    long: `_in_force` reads an empty lock again before it calls it damaged.
    """
    try:
        os.link(partial, wanted)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        with open(wanted, "x") as file:
            file.write(partial.read_text())
            file.flush()
            os.fsync(file.fileno())


def _write_aside(target: Path, holder: LockHolder) -> Path:
    """Write a lock's content to a file beside it."""
    partial = target.with_name(f".{target.name}.{socket.gethostname()}.{os.getpid()}")
    try:
        with create_file(partial) as file:
            file.write(json.dumps(asdict(holder)).encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OutputError(
            f"{target.parent}: cannot write the lock: {error.strerror}; check space and permissions"
        ) from error
    return partial
