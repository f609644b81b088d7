"""What is right and wrong with an installation, as findings; each says what to do."""

from __future__ import annotations

import importlib
import os
import resource
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from .errors import HemaxError
from .running.resources import cpu_limit, memory_limit_bytes, visible_gpus

#: Package name to module, for what a run imports.
_LIBRARIES = {
    "numpy": "numpy", "scipy": "scipy", "scikit-image": "skimage", "pillow": "PIL", "tifffile": "tifffile",
    "imagecodecs": "imagecodecs", "openslide-python": "openslide", "zarr": "zarr", "dask": "dask",
    "distributed": "distributed", "torch": "torch", "safetensors": "safetensors", "click": "click", "rich": "rich",
}  # fmt: skip
_NEEDED_GIB = 2.0
_NEEDED_FILES = 1024


@dataclass(frozen=True)
class Finding:
    """`level`: "ok", "warning" (a run works) or "wrong" (a run would stop)."""

    level: str
    subject: str
    text: str


def examine(out: Path | None = None, weights: Path | None = None) -> list[Finding]:
    """All findings, in the order in which a run would meet them. Writes nothing but a probe file in `out`."""
    findings = [_python(), *(_library(*names) for names in _LIBRARIES.items())]
    checks: list[tuple[str, Callable[[], Finding]]] = [
        ("OpenSlide", _openslide), ("weights", lambda: _weights(weights)), ("GPU", _gpu), ("limits", _limits),
        ("files", _open_files),
    ]  # fmt: skip
    if out is not None:
        checks += [("results", lambda: _results(out)), ("disk", lambda: _disk(out))]
    for subject, check in checks:
        try:
            findings.append(check())
        except (HemaxError, OSError, ImportError, RuntimeError) as error:
            findings.append(Finding("wrong", subject, str(error)))
    return findings


def _python() -> Finding:
    text = f"{sys.version.split()[0]} at {sys.executable}"
    fits = (3, 11) <= sys.version_info < (3, 14)
    return Finding("ok" if fits else "wrong", "Python", text if fits else f"{text}; 3.11, 3.12 or 3.13 is needed")


def _library(package: str, module: str) -> Finding:
    try:
        importlib.import_module(module)
        return Finding("ok", package, metadata.version(package))
    except (ImportError, OSError) as error:
        return Finding("wrong", package, f"cannot be imported ({error}); install hemax-batch again")


def _openslide() -> Finding:
    import openslide

    return Finding("ok", "OpenSlide", f"library {openslide.__library_version__}")


def _weights(path: Path | None) -> Finding:
    from .model.checkpoint import read_card

    card = read_card(path)
    return Finding("ok", "weights", f"{card.arch}, SHA-256 {card.sha256[:16]}…, {card.mpp:g} µm/px, {card.path}")


def _gpu() -> Finding:
    gpus = visible_gpus()
    if not gpus:
        return Finding("ok", "GPU", "none visible: the CPU is used")
    import torch

    names = ", ".join(torch.cuda.get_device_name(i) for i in range(len(gpus)))
    torch.zeros(8, device="cuda").sum().item()
    return Finding("ok", "GPU", f"{len(gpus)}: {names}")


def _limits() -> Finding:
    cores, gib = cpu_limit(), memory_limit_bytes() / 2**30
    text = f"{cores} of {os.cpu_count()} cores, {gib:.1f} GiB of memory may be used"
    return Finding("ok" if gib >= _NEEDED_GIB else "warning", "limits", text)


def _open_files() -> Finding:
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft < _NEEDED_FILES:
        return Finding(
            "warning", "files", f"at most {soft} may be open; raise it to {_NEEDED_FILES} (ulimit -n) for many workers"
        )
    return Finding("ok", "files", f"at most {soft} may be open")


def _results(out: Path) -> Finding:
    from .results.folder import ResultsFolder

    results = ResultsFolder(out)
    if not results.root.exists():
        parent = next(p for p in results.root.parents if p.exists())
        fits = os.access(parent, os.W_OK)
        return Finding(
            "ok" if fits else "wrong",
            "results",
            f"{results.root} will be made" if fits else f"{parent} may not be written",
        )
    results.prepare()
    return Finding("ok", "results", f"{results.root} can be written, {len(results.records())} slides in it")


def _disk(out: Path) -> Finding:
    place = next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free / 2**30
    return Finding("ok" if free >= _NEEDED_GIB else "warning", "disk", f"{free:.1f} GiB free at {place}")
