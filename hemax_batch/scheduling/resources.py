"""What this process may use of the machine: cores, memory and GPUs, under affinity, cgroup and SLURM limits.

A job on a shared server often owns 20 of 128 cores; a tool that counts the machine's cores then starves its neighbours.
"""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")
_NO_LIMIT = 2**60  # cgroup v1 writes a huge number for "no limit"


def cpu_limit(environ: dict[str, str] = os.environ, cgroup: Path = _CGROUP) -> int:
    """Cores that this process may use: the least of affinity, cgroup quotas and SLURM allocation; 1 or more."""
    limits = [_affinity(), _cgroup_cpus(cgroup)]
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        if environ.get(name, "").isdigit():
            limits.append(float(environ[name]))
            break
    return max(1, int(min(limit for limit in limits if limit is not None)))


def memory_limit_bytes(environ: dict[str, str] = os.environ, cgroup: Path = _CGROUP) -> int:
    """Memory that this process and its workers may use: the least of the machine's, its cgroups' and SLURM's."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    files = [group / "memory.max" for group in _groups(cgroup)]
    files += [group / "memory.limit_in_bytes" for group in _groups(cgroup / "memory", "memory")]
    for text in map(_read, files):
        if text and text.isdigit() and int(text) < _NO_LIMIT:
            limits.append(int(text))
    if environ.get("SLURM_MEM_PER_NODE", "").isdigit():
        limits.append(int(environ["SLURM_MEM_PER_NODE"]) * 2**20)
    return min(limits)


def visible_gpus(environ: dict[str, str] = os.environ) -> list[str]:
    """What to put into CUDA_VISIBLE_DEVICES for each usable GPU, in order; [] without any.

    PyTorch is asked only where a driver is present, because importing it takes seconds.
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
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cgroup_cpus(cgroup: Path) -> float | None:
    """The CPU quota in cores, cgroup v2 or v1; None without a limit. Half a core counts as half."""
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
    """This process's folder below a cgroup mount (v2, or v1 of a `controller`) and those round it, whose limits hold for
    it too; the mount alone inside a container."""
    for line in (_read(_OWN_GROUPS) or "").splitlines():
        _, controllers, path = line.split(":", 2)
        own = mount / path.lstrip("/")
        if controller in controllers.split(",") and own.is_dir():
            return [group for group in (own, *own.parents) if group.is_relative_to(mount)]
    return [mount]


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
