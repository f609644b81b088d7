#!/usr/bin/env python3
"""Read a slide's results with pandas and zarr, and plot them.

usage: read_results.py results/<slide> [plot.png]

Prints the differential, looks one cell's outline up by its id, and (with matplotlib, and a file name) draws the
classes by their nucleus/cell fraction and size. Nothing of hemax-batch is imported: the files are enough.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import zarr


def main(folder: Path, plot: Path | None) -> None:
    cells = pd.read_csv(folder / "cells.csv")
    if cells.empty:
        return print("0 cells")
    counted = cells[cells.in_differential]
    print(
        f"{len(cells)} cells, {len(counted)} white cells in the differential, {cells.review.sum()} to review"
    )
    print(counted["class"].value_counts(normalize=True).mul(100).round(1).to_string())
    first = cells.iloc[0]
    labels = zarr.open_array(folder / "masks.zarr/labels/cell/0", mode="r")
    rows, columns = slice(int(first.y0), int(first.y1)), slice(int(first.x0), int(first.x1))
    pixels = np.count_nonzero(labels[rows, columns] == first.cell_id)
    print(
        f"\ncell {first.cell_id}: {pixels} pixels in its mask, {first.cell_area_um2} µm² in its row"
    )
    print(first.explanation)
    if plot:
        from matplotlib.figure import Figure

        axes = Figure(figsize=(7, 5)).add_subplot()
        for name, group in cells.groupby("class"):
            axes.scatter(
                group.diameter_um, group.nucleus_fraction, s=12, label=f"{name} ({len(group)})"
            )
        axes.set(
            xlabel="diameter, µm",
            ylabel="nucleus / cell, by area",
            title=f"{folder.name}: pre-classification",
        )
        axes.legend(fontsize=8)
        axes.figure.savefig(plot, dpi=120, bbox_inches="tight")
        print(f"plotted to {plot}")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) == 3 else None)
