"""The commands on slides: `info` and `synth`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..records import Slide, TilePlan


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="SLIDES...")
@click.option("--mpp", type=float, help="µm per pixel, for slides that do not record it.")
@click.option("--image", type=int, help="Which image of a file with several (from 1).")
@click.option("--focus-plane", type=int, help="Which focus plane of several (from 1).")
@click.option(
    "--core-um", type=float, default=400.0, show_default=True, help="Side of a region in µm."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def info(
    inputs: tuple[str, ...],
    mpp: float | None,
    image: int | None,
    focus_plane: int | None,
    core_um: float,
    as_json: bool,
) -> None:
    """Show the size, µm/px, levels and reader of slides, and the area that a run would scan.

    \b
    Exit codes: 0 all can be read; 3 some cannot; 4 none can.

    \b
    Example:
      hemax-batch info slides/
    """
    import json
    from dataclasses import asdict

    from ..errors import SlideError
    from ..inference.plan_task import PlanTask, plan_slide
    from ..slides.discovery import find_slides
    from ..slides.reader import open_slide

    files, failed = find_slides(inputs), 0
    for file in files:
        try:
            with open_slide(file.path, file.slide_id, mpp, image, focus_plane) as reader:
                slide = reader.slide
            plan = plan_slide(PlanTask(slide, core_um))
        except SlideError as error:
            failed += 1
            click.echo(
                json.dumps({"slide_id": file.slide_id, "error": str(error)})
                if as_json
                else str(error),
                err=not as_json,
            )
            continue
        if as_json:
            area = {
                "regions": len(plan.regions),
                "scanned_mm2": plan.scanned_mm2,
                "blank_mm2": plan.blank_mm2,
            }
            click.echo(json.dumps({**asdict(slide), **area, "warnings": plan.warnings}))
        else:
            click.echo(_slide_text(slide, plan))
    sys.exit(0 if not failed else 4 if failed == len(files) else 3)


def _slide_text(slide: Slide, plan: TilePlan) -> str:
    """Describe a slide and its plan, in lines."""
    levels = ", ".join(f"{w}x{h}" for w, h in slide.level_sizes)
    lines = [
        slide.slide_id,
        f"  file      {slide.path}",
        f"  size      {slide.width} x {slide.height} px, {slide.mpp:.4g} µm/px "
        f"({slide.width * slide.mpp / 1000:.1f} x {slide.height * slide.mpp / 1000:.1f} mm)",
        f"  levels    {levels}",
        f"  reader    {slide.backend} ({slide.vendor})",
        *(f"  content   {text}" for text in slide.notes),
        f"  plan      {len(plan.regions)} regions, {plan.scanned_mm2:.2f} mm² to scan, {plan.blank_mm2:.2f} mm² blank",
        *(f"  warning   {text}" for text in plan.warnings),
    ]
    return "\n".join(lines)


@click.command()
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--width", type=click.IntRange(256, 200_000), default=6000, show_default=True, help="In pixels."
)
@click.option(
    "--height",
    type=click.IntRange(256, 200_000),
    default=6000,
    show_default=True,
    help="In pixels.",
)
@click.option(
    "--mpp", type=click.FloatRange(0.05, 0.5), default=0.1, show_default=True, help="µm per pixel."
)
@click.option(
    "--white-per-mm2",
    type=click.FloatRange(0),
    default=150.0,
    show_default=True,
    help="White cells per mm².",
)
def synth(path: Path, seed: int, width: int, height: int, mpp: float, white_per_mm2: float) -> None:
    """Paint a synthetic smear, and write the exact truth beside it. It is never called real.

    PATH is a pyramidal TIFF. The truth has the ending .truth.csv: class, box and attributes of every cell.

    \b
    Example:
      hemax-batch synth demo/smear.tif --seed 7 --width 8000 --height 8000
    """
    from ..synthetic import write_smear

    path.parent.mkdir(parents=True, exist_ok=True)
    write_smear(path, seed=seed, width=width, height=height, mpp=mpp, white_per_mm2=white_per_mm2)
    click.echo(
        f"{path}: {width} x {height} px at {mpp:g} µm/px, synthetic; "
        f"the truth is in {path.with_suffix('.truth.csv').name}"
    )
