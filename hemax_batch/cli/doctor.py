"""The command `doctor`: check an installation. Each finding says what to do."""

from __future__ import annotations

import importlib
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import click

from ..errors import HemaxError
from ..scheduling.resources import cpu_limit, memory_limit_bytes, visible_gpus

#: Package name to module, for what a run imports.
_LIBRARIES = {
    "numpy": "numpy", "scipy": "scipy", "scikit-image": "skimage", "pillow": "PIL", "tifffile": "tifffile",
    "imagecodecs": "imagecodecs", "openslide-python": "openslide", "zarr": "zarr", "dask": "dask",
    "distributed": "distributed", "torch": "torch", "safetensors": "safetensors", "click": "click", "rich": "rich",
}  # fmt: skip
_NEEDED_GIB = 2.0
_LEAST_FREE_GIB = 0.1  # below it a slide's results hardly fit
_LEAST_INODES = 1000  # a slide's results are some hundred files
_NEEDED_FILES, _LEAST_FILES = 1024, 128
_LARGEST_FILE_GIB = 1.0  # masks of a dense smear
_PROBE_BYTES, _LEAST_MB_PER_S = 8_000_000, 5.0
_NVIDIA = (Path("/proc/driver/nvidia/version"), Path("/dev/nvidiactl"))


@dataclass(frozen=True)
class Finding:
    """One finding. `level` is "ok", "warning" (a run works) or "wrong" (a run would stop)."""

    level: str
    subject: str
    text: str


def check_installation(out: Path | None = None, weights: Path | None = None) -> list[Finding]:
    """Return all findings, in the order in which a run meets them. Only a probe file is written, in `out`."""
    findings = [_python(), *(_library(*names) for names in _LIBRARIES.items())]
    checks: list[tuple[str, Callable[[], Finding]]] = [
        ("OpenSlide", _openslide),
        ("weights", lambda: _weights(weights)),
        ("GPU", _gpu),
        ("engine", _engine),
        ("limits", _limits),
        ("files", _open_files),
        ("file size", _file_size),
    ]
    if out is not None:
        checks += [
            ("results", lambda: _results(out)),
            ("lock", lambda: _lock(out)),
            ("file system", lambda: _file_system(out)),
            ("disk", lambda: _disk(out)),
        ]
    for subject, check in checks:
        try:
            findings.append(check())
        except (
            Exception
        ) as error:  # a broken installation may raise anything; the finding reports it
            text = (
                str(error) if isinstance(error, HemaxError) else f"{type(error).__name__}: {error}"
            )
            findings.append(Finding("wrong", subject, text))
    return findings


def _python() -> Finding:
    text = f"{sys.version.split()[0]} at {sys.executable}"
    fits = (3, 11) <= sys.version_info < (3, 14)
    return Finding(
        "ok" if fits else "wrong",
        "Python",
        text if fits else f"{text}; 3.11, 3.12 or 3.13 is needed",
    )


def _library(package: str, module: str) -> Finding:
    try:
        importlib.import_module(module)
        return Finding("ok", package, metadata.version(package))
    except (ImportError, OSError) as error:
        return Finding("wrong", package, f"cannot be imported ({error}); install hemax-batch again")


def _openslide() -> Finding:
    """Check that OpenSlide opens a painted slide and returns its pixels."""
    import numpy as np
    import openslide
    import tifffile

    painted = np.full((64, 64, 3), (200, 100, 50), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "painted.tif")
        tifffile.imwrite(path, painted, tile=(64, 64), photometric="rgb", metadata=None)
        with openslide.OpenSlide(path) as slide:
            read = np.asarray(slide.read_region((0, 0), 0, (64, 64)).convert("RGB"))
    if not np.array_equal(read, painted):
        return Finding(
            "wrong",
            "OpenSlide",
            f"library {openslide.__library_version__} misreads a painted slide; reinstall",
        )
    return Finding(
        "ok", "OpenSlide", f"library {openslide.__library_version__} reads a painted slide"
    )


def _weights(path: Path | None) -> Finding:
    from ..model.checkpoint import read_card

    card = read_card(path)
    return Finding(
        "ok",
        "weights",
        f"{card.arch}, SHA-256 {card.sha256[:16]}…, {card.mpp:g} µm/px, {card.path}",
    )


def _gpu() -> Finding:
    gpus = visible_gpus()
    if not gpus and any(path.exists() for path in _NVIDIA):
        import torch

        why = (
            "hidden by CUDA_VISIBLE_DEVICES?"
            if torch.version.cuda
            else "this PyTorch is built for the CPU"
        )
        return Finding(
            "warning", "GPU", f"a driver is there, but no GPU for PyTorch ({why}): the CPU is used"
        )
    if not gpus:
        return Finding("ok", "GPU", "none visible: the CPU is used")
    import torch

    names = ", ".join(torch.cuda.get_device_name(i) for i in range(len(gpus)))
    torch.zeros(8, device="cuda").sum().item()
    return Finding("ok", "GPU", f"{len(gpus)}: {names}")


def _engine() -> Finding:
    """What `run` computes in by default."""
    from ..model.engines.selection import bf16_instruction, resolve_engine

    engine, precision = resolve_engine("auto", "auto", on_cpu=not visible_gpus())
    if engine == "torch":
        missing = "" if visible_gpus() else "; openvino is not installed: it takes half the time"
        return Finding("ok", "engine", f"PyTorch {precision}{missing}")
    why = bf16_instruction() or "this CPU has no bf16 instructions"
    return Finding("ok", "engine", f"OpenVINO {metadata.version('openvino')}, {precision} ({why})")


def _limits() -> Finding:
    cores, gib = cpu_limit(), memory_limit_bytes() / 2**30
    text = f"{cores} of {os.cpu_count()} cores, {gib:.1f} GiB of memory may be used"
    space = resource.getrlimit(resource.RLIMIT_AS)[0]
    if space != resource.RLIM_INFINITY and space < 2 * _NEEDED_GIB * 2**30:
        return Finding(
            "wrong",
            "limits",
            f"{text}, but {space / 2**30:.1f} GiB of addresses: raise it (ulimit -v unlimited)",
        )
    return Finding("ok" if gib >= _NEEDED_GIB else "warning", "limits", text)


def _open_files() -> Finding:
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY or soft >= _NEEDED_FILES:
        return Finding(
            "ok", "files", "any number may be open" if soft < 0 else f"at most {soft} may be open"
        )
    level = "warning" if soft >= _LEAST_FILES else "wrong"
    return Finding(
        level, "files", f"at most {soft} may be open; raise it to {_NEEDED_FILES} (ulimit -n)"
    )


def _file_size() -> Finding:
    largest = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if largest == resource.RLIM_INFINITY or largest >= _LARGEST_FILE_GIB * 2**30:
        return Finding("ok", "file size", "files may be large enough")
    return Finding(
        "wrong",
        "file size",
        f"files may have {largest} bytes at most; raise it (ulimit -f unlimited)",
    )


def _results(out: Path) -> Finding:
    from ..results.folder import ResultsFolder

    results = ResultsFolder(out)
    if not results.root.exists():
        parent = next(p for p in results.root.parents if p.exists())
        fits = os.access(parent, os.W_OK)
        return Finding(
            "ok" if fits else "wrong",
            "results",
            f"{results.root} will be made" if fits else f"{parent} may not be written",
        )
    results.check()
    return Finding(
        "ok", "results", f"{results.root} can be written, {len(results.records())} slides in it"
    )


def _lock(out: Path) -> Finding:
    from ..results.folder import STATE_FOLDER
    from ..results.lock import describe_holder

    held = describe_holder(out / STATE_FOLDER)
    return Finding("warning" if held else "ok", "lock", held or "no run holds the results folder")


def _file_system(out: Path) -> Finding:
    """Take a lock, write, rename and read where the results are to lie. Everything is removed again."""
    from ..results.lock import OutputLock

    place = next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
    with tempfile.TemporaryDirectory(prefix=".hemax-doctor.", dir=place) as name:
        folder = Path(name)
        with OutputLock(folder):
            began = time.perf_counter()
            with open(folder / "probe.partial", "wb") as file:
                file.write(os.urandom(_PROBE_BYTES))
                file.flush()
                os.fsync(file.fileno())
            seconds = time.perf_counter() - began
            (folder / "probe.partial").rename(folder / "probe")
            if (folder / "probe").stat().st_size != _PROBE_BYTES:
                return Finding(
                    "wrong", "file system", f"{place} loses what is written; use another"
                )
    speed = _PROBE_BYTES / 1e6 / max(seconds, 1e-6)
    text = f"lock, write and rename work at {place}; {speed:.0f} MB/s written"
    return Finding("ok" if speed >= _LEAST_MB_PER_S else "warning", "file system", text)


def _disk(out: Path) -> Finding:
    place = next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
    state = os.statvfs(place)
    free, inodes = state.f_bavail * state.f_frsize / 2**30, state.f_favail
    if free < _LEAST_FREE_GIB or (state.f_files and inodes < _LEAST_INODES):
        return Finding(
            "wrong", "disk", f"{free:.2f} GiB and {inodes} files free at {place}; make room"
        )
    return Finding(
        "ok" if free >= _NEEDED_GIB else "warning", "disk", f"{free:.1f} GiB free at {place}"
    )


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Also check this results folder: space, permissions, lock.",
)
@click.option(
    "--weights",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Weights to check.  [default: the weights that ship]",
)
def doctor(out: Path | None, weights: Path | None) -> None:
    """Check an installation: libraries, weights, GPU, limits, and the disk of a results folder.

    The exit code is 1 if a run would stop.

    \b
    Example:
      hemax-batch doctor --out results/
    """
    findings = check_installation(out, weights)
    for finding in findings:
        click.echo(f"{finding.level:7} {finding.subject:14} {finding.text}")
    wrong = sum(finding.level == "wrong" for finding in findings)
    click.echo("all is well" if not wrong else f"{wrong} thing{'s' * (wrong > 1)} to put right")
    sys.exit(1 if wrong else 0)
