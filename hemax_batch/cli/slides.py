"""The commands round a run: `info`, `doctor`, `synth`."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="SLIDES...")
@click.option("--mpp", type=float, help="µm per pixel, for slides that do not say it.")
@click.option(
    "--core-um", type=float, default=400.0, show_default=True, help="Side of a region in µm."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def info(inputs, mpp, core_um, as_json):
    """Show what slides are: size, µm/px, levels, reader, and how much a run would scan.

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
            with open_slide(file.path, file.slide_id, mpp) as reader:
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
            click.echo(json.dumps({**asdict(slide), **area, "warnings": plan.stain.warnings}))
        else:
            click.echo(_slide_text(slide, plan))
    sys.exit(0 if not failed else 4 if failed == len(files) else 3)


def _slide_text(slide, plan) -> str:
    levels = ", ".join(f"{w}x{h}" for w, h in slide.level_sizes)
    lines = [
        slide.slide_id,
        f"  file      {slide.path}",
        f"  size      {slide.width} x {slide.height} px, {slide.mpp:.4g} µm/px "
        f"({slide.width * slide.mpp / 1000:.1f} x {slide.height * slide.mpp / 1000:.1f} mm)",
        f"  levels    {levels}",
        f"  reader    {slide.backend} ({slide.vendor})",
        f"  plan      {len(plan.regions)} regions, {plan.scanned_mm2:.2f} mm² to scan, {plan.blank_mm2:.2f} mm² blank",
        *(f"  warning   {text}" for text in plan.stain.warnings),
    ]
    return "\n".join(lines)


@click.command()
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--width", type=click.IntRange(256, 200_000), default=6000, show_default=True, help="Pixels."
)
@click.option(
    "--height", type=click.IntRange(256, 200_000), default=6000, show_default=True, help="Pixels."
)
@click.option(
    "--mpp", type=click.FloatRange(0.05, 0.5), default=0.1, show_default=True, help="µm per pixel."
)
@click.option(
    "--white-per-mm2",
    type=click.FloatRange(0),
    default=150.0,
    show_default=True,
    help="White cells a mm².",
)
def synth(path, seed, width, height, mpp, white_per_mm2):
    """Paint a synthetic smear (never to be called real) with its exact truth beside it.

    Writes PATH, a pyramidal TIFF, and PATH with .truth.csv for its ending: class, box, attributes of every cell.

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
