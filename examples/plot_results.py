#!/usr/bin/env python3
"""Plot a slide's results with pandas, zarr and matplotlib: the differential with its limits, and a gallery of cells.

usage: plot_results.py results/<slide> plot.png

The gallery shows the cells that the network is least certain of, with the outlines that are in the masks. Nothing of
hemax-batch is imported: the files are enough. Needs `pip install pandas matplotlib`.
"""

import io
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import zarr
from matplotlib.figure import Figure
from PIL import Image

SHOWN = 12
PICTURE_UM = 24.0  # side of a picture, whose middle is the middle of the cell's box


def plot_differential(axes, record: dict) -> None:
    """Per cent of white cells of each class, with exact 95 % limits."""
    classes = pd.DataFrame(record["classes"])[::-1].dropna(subset=["percent"])
    limits = [classes.percent - classes.low95, classes.high95 - classes.percent]
    axes.barh(
        classes.words,
        classes.percent,
        xerr=np.clip(limits, 0, None),
        color="#44AA99",
        ecolor="#333333",
        capsize=2,
    )
    axes.set(
        xlabel="% of white cells, with 95 % limits",
        xlim=(0, 100),
        title=f"{record['white_cells']} white cells",
    )


def plot_cell(axes, cell, picture: Image.Image, masks: dict, side_px: int) -> None:
    """A cell's picture, and round it the outlines of its masks."""
    height, width = masks["cell"].shape
    x0, y0 = (
        round((low + high) / 2 - side_px / 2)
        for low, high in ((cell.x0, cell.x1), (cell.y0, cell.y1))
    )
    rows, columns = (
        slice(max(y0, 0), min(y0 + side_px, height)),
        slice(max(x0, 0), min(x0 + side_px, width)),
    )
    where = (
        columns.start - x0,
        columns.stop - x0,
        rows.stop - y0,
        rows.start - y0,
    )  # in the picture
    axes.imshow(picture, extent=(0, side_px, side_px, 0))
    for name, colour in (("cell", "#004488"), ("nucleus", "#DDAA33")):
        own = masks[name][rows, columns] == cell.cell_id
        if own.any():
            axes.contour(
                own, levels=[0.5], colors=colour, linewidths=1, extent=where, origin="upper"
            )
    axes.set(xlim=(0, side_px), ylim=(side_px, 0))
    axes.set_title(
        f"{cell.cell_id}: {cell['class'].replace('_', ' ')}\n{cell.confidence:.2f}", fontsize=7
    )


def main(folder: Path, plot: Path) -> None:
    cells = pd.read_csv(folder / "cells.csv")
    differential = json.loads((folder / "differential.json").read_text("utf-8"))
    mpp = json.loads((folder / "result.json").read_text("utf-8"))["mpp"]
    masks = {
        name: zarr.open_array(folder / f"masks.zarr/labels/{name}/0", mode="r")
        for name in ("cell", "nucleus")
    }
    figure = Figure(figsize=(13, 6), layout="constrained")
    left, right = figure.subfigures(1, 2)
    plot_differential(left.subplots(), differential)
    places = right.subplots(3, 4).ravel()
    for axes in places:
        axes.axis("off")
    with zipfile.ZipFile(folder / "pictures.zip") as pictures:
        kept = set(pictures.namelist())
        has_picture = np.array([f"{i}.jpg" in kept for i in cells.cell_id], bool)
        seen = cells[has_picture].sort_values("confidence", kind="stable").head(SHOWN)
        for axes, (_, cell) in zip(places, seen.iterrows(), strict=False):
            picture = Image.open(io.BytesIO(pictures.read(f"{cell.cell_id}.jpg")))
            plot_cell(axes, cell, picture, masks, round(PICTURE_UM / mpp))
    figure.suptitle(f"{folder.name}: {differential['claim']}".replace("$", r"\$"), fontsize=9)
    figure.savefig(plot, dpi=110)
    print(f"{len(cells)} cells, {len(seen)} of them in the gallery, plotted to {plot}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
