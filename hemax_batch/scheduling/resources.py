"""Find the cores, memory and GPUs that this process may use (affinity, cgroups, SLURM).

A job on a shared server often owns 20 of 128 cores. A program that uses all cores of the machine
slows down its neighbours.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")
_NO_LIMIT = 2**60  # cgroup v1 writes a very large number for "no limit"


def cpu_limit(environ: Mapping[str, str] = os.environ, cgroup: Path = _CGROUP) -> int:
    """Return the number of cores that this process may use, at least 1.

    It is the smallest of affinity, cgroup quotas and SLURM allocation.
    """
    limits = [_affinity(), _cgroup_cpus(cgroup)]
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        if environ.get(name, "").isdigit():
            limits.append(float(environ[name]))
            break
    return max(1, int(min(limit for limit in limits if limit is not None)))


def memory_limit_bytes(environ: Mapping[str, str] = os.environ, cgroup: Path = _CGROUP) -> int:
    """Return the memory that this process and its workers may use.

    It is the smallest of the machine's, the cgroups' and SLURM's.
    """
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    files = [group / "memory.max" for group in _groups(cgroup)]
    files += [group / "memory.limit_in_bytes" for group in _groups(cgroup / "memory", "memory")]
    for text in map(_read, files):
        if text and text.isdigit() and int(text) < _NO_LIMIT:
            limits.append(int(text))
    if environ.get("SLURM_MEM_PER_NODE", "").isdigit():
        limits.append(int(environ["SLURM_MEM_PER_NODE"]) * 2**20)
    return min(limits)


def visible_gpus(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the value of CUDA_VISIBLE_DEVICES for each usable GPU, in order.

    PyTorch is imported only if a driver is present, because the import takes seconds.
    """
    if not Path("/proc/driver/nvidia/version").exists() and not Path("/dev/nvidiactl").exists():
        return []
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = [
        name.strip() for name in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()
    ]
    return (named or [str(i) for i in range(count)])[:count]


def _affinity() -> int:
    """Return the number of cores of this process's affinity mask."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cgroup_cpus(cgroup: Path) -> float | None:
    """Return the CPU quota in cores (cgroup v2 or v1), which may be a fraction. None: no limit."""
    limits = []
    for group in _groups(cgroup):
        v2 = (_read(group / "cpu.max") or "").split()
        if len(v2) == 2 and v2[0].isdigit():
            limits.append(int(v2[0]) / int(v2[1]))
    for group in _groups(cgroup / "cpu", "cpu"):
        quota, period = _read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")
        if quota and period and quota.isdigit() and int(period) > 0:
            limits.append(int(quota) / int(period))
    return min(limits, default=None)


def _groups(mount: Path, controller: str = "") -> list[Path]:
    """Return this process's folder below a cgroup mount and its parents, whose limits apply too.

    The mount is of cgroup v2, or of a v1 `controller`. In a container the result is the mount.
    """
    for line in (_read(_OWN_GROUPS) or "").splitlines():
        _, controllers, path = line.split(":", 2)
        own = mount / path.lstrip("/")
        if controller in controllers.split(",") and own.is_dir():
            return [group for group in (own, *own.parents) if group.is_relative_to(mount)]
    return [mount]


def _read(path: Path) -> str | None:
    """Return the text of a file, or None if it cannot be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return None
