"""A synthetic blood smear with exact ground truth: for the demo, the tests and training. Never to be called real.

Everything is painted as optical density, as stain on glass: red cells as one plane of thickness, nucleated cells and
platelets as coloured densities over it, then the light, the sensor's noise and JPEG.

    stain.py        the colours of a stain, and random ones
    texture.py      noise of a given grain, granules, smooth fields from a coarse grid
    nucleus.py      shapes of nuclei as signed distances
    white_cell.py   the recipe of each class; paints one cell, platelet or speck
    red_cell.py     a bank of red cells, and where they lie
    patch.py        one field round one cell: training pictures
    slide.py        a whole smear, drawn window by window
    pyramid.py      the smear as a pyramidal TIFF with its truth beside it
"""

from .patch import draw_cell_patch
from .pyramid import write_smear
from .slide import DEFAULT_MIXTURE, Smear, draw_smear
from .stain import STAINS, Stain, random_stain
from .white_cell import SmearCell

__all__ = [
    "DEFAULT_MIXTURE", "STAINS", "Smear", "SmearCell", "Stain", "draw_cell_patch", "draw_smear", "random_stain",
    "write_smear",
]  # fmt: skip
