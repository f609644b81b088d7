"""Command line of `bin/bench`: the cost of a run, of its parts and of the alternatives."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from .. import __version__
from ..scheduling.resources import cpu_limit
from .benchmark import Benchmark
from .compare_figures import compare_figures
from .markdown_table import fit_growth, markdown_table

_PYTHON = click.Path(exists=True, dir_okay=False, path_type=Path)
_STAGES = "CPU-seconds by stage"
_SLIDE = click.Path(exists=True, dir_okay=False, path_type=Path)
_QUICK_PX, _FULL_PX = (3000, 6000), (10_000, 20_000, 40_000)
_QUICK_CELLS, _FULL_CELLS = (2_000, (16_000, 8_000)), (1_000_000, (200_000, 100_000))


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.argument("slides", nargs=-1, type=_SLIDE)
@click.option(
    "--quick",
    is_flag=True,
    help="Use small synthetic slides and few generated cells: minutes on two cores.",
)
@click.option(
    "--sizes",
    help="Sides of the synthetic slides in pixels, such as 10000,20000; 0 for none.  "
    "[default: by --quick]",
)
@click.option(
    "--cores",
    type=int,
    default=cpu_limit,
    help="Processes for every part.  [default: the cores this process may use]",
)
@click.option(
    "--repeat",
    type=click.IntRange(1),
    default=1,
    help="Repetitions of each measurement; medians are shown.",
)
@click.option(
    "--recall",
    "recall_only",
    is_flag=True,
    help="Measure only the screen's recall against --exhaustive.",
)
@click.option(
    "--stages",
    "stages_only",
    is_flag=True,
    help="Measure only the CPU-seconds of a run by stage.",
)
@click.option(
    "--compare",
    type=_SLIDE,
    metavar="OLD.json",
    help="An earlier bench.json of this machine; each figure is shown before and after.",
)
@click.option(
    "--peer-python",
    type=_PYTHON,
    help="Python of an environment with TIAToolbox; its engine is measured too.",
)
@click.option("--cells", type=int, help="Generated cells to merge and write; 0 for none.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="bench",
    help="Folder for bench.json, bench.md and profile.txt.",
)
def main(
    slides: tuple[Path, ...],
    quick: bool,
    sizes: str | None,
    cores: int,
    repeat: int,
    recall_only: bool,
    stages_only: bool,
    compare: Path | None,
    peer_python: Path | None,
    cells: int | None,
    out: Path,
) -> None:
    r"""Measure the tool side by side with its parts and alternatives.

    Measured are a run; reading alone; the network alone; reading by OpenSlide; a plain loop over
    DeepZoom tiles; a peer's engine (hemax_batch/bench/peer.py says how to set it up); one worker
    against several; merging of generated cells; and growth with the slide's size.

    SLIDES are measured besides the synthetic slides, or instead of them with --recall and --stages. With several
    sizes, growth is measured too.

    \b
    Example:
      bin/bench --quick
      bin/bench --recall mosaic.tif
      bin/bench --stages --compare before/bench.json smear.tif
      bin/bench --peer-python ~/peer/bin/python --sizes 0 --cells 0 mosaic.tif
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as folder:
        bench = Benchmark(Path(folder), cores, repeat, peer_python)
        sides = _sides(sizes, quick)
        if not sides and not slides:
            raise click.UsageError("nothing to measure: give SLIDES, or --sizes other than 0")
        if recall_only:
            paths = slides or [_synthetic(Path(folder), sides[-1])]
            figures: dict[str, Any] = {"recall": [bench.recall(path) for path in paths]}
        elif stages_only:
            paths = slides or [_synthetic(Path(folder), sides[-1])]
            figures = {_STAGES: [bench.stages(path) for path in paths]}
        else:
            n_cells, size_px = _QUICK_CELLS if quick else _FULL_CELLS
            figures = _measure_slides(bench, Path(folder), sides, slides)
            profiled = slides[0] if slides else Path(folder) / f"synthetic-{sides[-1]}.tif"
            (out / "profile.txt").write_text(bench.profile(profiled), "utf-8")
            if cells != 0:
                figures["merging and writing"] = bench.merging(cells or n_cells, size_px)
    figures = {"machine": _machine(cores, repeat)} | figures
    text = "\n".join(
        markdown_table(name, rows if isinstance(rows, list) else [rows])
        for name, rows in figures.items()
    )
    if compare is not None:
        rows = compare_figures(json.loads(compare.read_text("utf-8")), figures)
        text += "\n" + markdown_table("before and after", rows)
    (out / "bench.json").write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    (out / "bench.md").write_text(text, "utf-8")
    click.echo(text)


def _sides(sizes: str | None, quick: bool) -> list[int]:
    """Parse the sides of the synthetic slides; "0" gives none."""
    if sizes is None:
        return list(_QUICK_PX if quick else _FULL_PX)
    return [int(side) for side in sizes.split(",") if int(side)]


def _measure_slides(
    bench: Benchmark, folder: Path, sides: list[int], slides: tuple[Path, ...]
) -> dict[str, Any]:
    """Measure synthetic and given slides; return the figures by name."""
    made = [_synthetic(folder, side) for side in sides]
    rows: list[dict[str, Any]] = []
    for path in [*made, *slides]:
        rows.append(bench.side_by_side(path))
        click.echo(f"{path.name}: {rows[-1]['run_s']} s", err=True)
    figures: dict[str, Any] = {
        "side by side": rows,
        _STAGES: [bench.stages(path) for path in [*made, *slides]],
        "workers": bench.scaling([*made, *slides][-1]),
        "start-up": bench.start_up(),
    }
    kinds = {"synthetic": rows[: len(made)], "given": rows[len(made) :]}
    figures["growth"] = [
        {"of": name, "slides": kind}
        | fit_growth([row["megapixels"] for row in some], [row[name] for row in some])
        for kind, some in kinds.items()
        if len({row["megapixels"] for row in some}) > 1
        for name in ("run_s", "peak_mb")
    ]
    return figures


def _synthetic(folder: Path, side_px: int) -> Path:
    """Write a synthetic smear of a side in pixels."""
    path = folder / f"synthetic-{side_px}.tif"
    command = [sys.executable, "-m", "hemax_batch", "synth", str(path), "--seed", "1"]
    command += ["--width", str(side_px), "--height", str(side_px)]
    subprocess.run(command, check=True, capture_output=True)
    return path


def _machine(cores: int, repeat: int) -> dict[str, object]:
    """Describe the machine and its load."""
    names = [
        line.split(":")[1].strip()
        for line in _lines("/proc/cpuinfo")
        if line.startswith("model name")
    ]
    return {
        "hemax-batch": __version__,
        "python": platform.python_version(),
        "processor": names[0] if names else "",
        "cores": cores,
        "load at the end": round(os.getloadavg()[0], 1),
        "repeat": repeat,
    }


def _lines(path: str) -> list[str]:
    """Return a file's lines; none if it cannot be read."""
    try:
        return Path(path).read_text("utf-8").splitlines()
    except OSError:
        return []


if __name__ == "__main__":
    main()
