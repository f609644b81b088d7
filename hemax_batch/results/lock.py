"""One writer per results folder: a lock that survives crashes, also on NFS.

The lock is a numbered file, `lock.7`, which says who holds it. The highest number is the lock in force; to take over a
released or stale one is to create the next number, and only one process can. A file is written aside and then
hard-linked into place (atomic on NFS too, where exclusive creation once was not), so nobody ever reads half of it.
Whoever holds number n removes the lower ones; the highest always stays, marked as released, so that numbers never go
back.

    lock.6  {"host": "lab1", "pid": 4711, "started": "8123455", ...}     crashed: no such process on lab1
    lock.7  {"host": "lab1", "pid": 4802, ...}                           holds it
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import LockedError, OutputError

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
    """Who holds a lock. `started` tells a process from a later one of the same pid; `space` is its pid namespace."""

    host: str
    boot: str
    space: str
    pid: int
    started: str
    since: str
    released: bool = False

    @classmethod
    def this_process(cls) -> LockHolder:
        """Who we are."""
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
        """Whether this holder certainly no longer runs. Of another host (or container) that cannot be told: False."""
        if self.released:
            return True
        if self.host != socket.gethostname() or self.space != _pid_space():
            return False
        return self.boot != _boot_id() or process_start(self.pid) != self.started


class OutputLock:
    """Holds the results folder while in its `with` block.

        with OutputLock(out / ".hemax", wait_s=0):
            ...

    Raises LockedError naming the holder and the remedy when another run still holds it after `wait_s`.
    meanwhile: called while waiting; what it raises ends the wait.
    """

    def __init__(self, folder: Path, wait_s: float = 0.0, on_wait: Callable[[], object] = bool):
        self._folder = folder
        self._wait_s = wait_s
        self._on_wait = on_wait
        self._mine: Path | None = None

    def __enter__(self) -> OutputLock:
        deadline = time.monotonic() + self._wait_s
        while not self._try_to_take():
            self._on_wait()
            if time.monotonic() >= deadline:
                raise LockedError(self._explain())
            time.sleep(_POLL_S)
        return self

    def __exit__(self, *_) -> None:
        if self._mine is not None:
            held = LockHolder(**json.loads(self._mine.read_text()))
            _write_aside(self._mine, LockHolder(**{**asdict(held), "released": True})).replace(
                self._mine
            )
            self._mine = None

    def _try_to_take(self) -> bool:
        highest, holder = self._in_force()
        if holder is not None and not holder.is_dead():
            return False
        wanted = self._folder / f"lock.{highest + 1}"
        partial = _write_aside(wanted, LockHolder.this_process())
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
        if (
            self._in_force()[0] != highest + 1
        ):  # a later holder removed the number that we saw: we were asleep
            wanted.unlink(missing_ok=True)
            return False
        self._mine = wanted
        for number in self._numbers():
            if number <= highest:
                (self._folder / f"lock.{number}").unlink(missing_ok=True)
        return True

    def _numbers(self) -> list[int]:
        names = (p.name.removeprefix("lock.") for p in self._folder.glob("lock.*"))
        return sorted(int(name) for name in names if name.isdigit())

    def _in_force(self) -> tuple[int, LockHolder | None]:
        """The highest number and who holds it; (0, None) where there is none."""
        numbers = self._numbers()
        if not numbers:
            return 0, None
        path = self._folder / f"lock.{numbers[-1]}"
        try:
            return numbers[-1], LockHolder(**json.loads(_read_whole(path)))
        except FileNotFoundError:  # its holder has just been followed by another
            return self._in_force()
        except (ValueError, TypeError) as error:
            raise LockedError(
                f"{path}: this lock is damaged ({error}); if no run uses the folder, delete it"
            ) from error

    def _explain(self) -> str:
        number, holder = self._in_force()
        path = self._folder / f"lock.{number}"
        if holder is None or holder.is_dead():
            return f"{self._folder.parent}: another run took the results folder just now; try again"
        return (
            f"{self._folder.parent}: held by process {holder.pid} on {holder.host} since {holder.since}; wait for it "
            f"(--wait-lock SECONDS), or if it no longer runs there, delete {path}"
        )


def describe_holder(folder: Path) -> str:
    """Who holds the lock in `folder`, in words with the remedy; "" where nobody does. LockedError: it is damaged."""
    lock = OutputLock(folder)
    holder = lock._in_force()[1]
    return "" if holder is None or holder.is_dead() else lock._explain()


def process_start(pid: int) -> str | None:
    """When a process started, in the kernel's ticks (clock changes do not move it); None without such a process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None if Path("/proc/self/stat").exists() else _process_start_elsewhere(pid)
    fields = text[text.rindex(")") + 2 :].split()  # the name before it may hold spaces and brackets
    return None if fields[0] == "Z" else fields[19]


def _process_start_elsewhere(pid: int) -> str | None:
    import psutil

    try:
        return str(round(psutil.Process(pid).create_time()))
    except psutil.NoSuchProcess:
        return None


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _pid_space() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _read_whole(path: Path) -> str:
    """Return a lock's text. An empty one may be about to be written: it gets a moment."""
    deadline = time.monotonic() + _HALF_WRITTEN_S
    while not (text := path.read_text()).endswith("}") and time.monotonic() < deadline:
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
    partial = target.with_name(f".{target.name}.{socket.gethostname()}.{os.getpid()}")
    try:
        with open(partial, "w") as file:
            json.dump(asdict(holder), file)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OutputError(
            f"{target.parent}: cannot write the lock: {error.strerror}; check space and permissions"
        ) from error
    return partial
