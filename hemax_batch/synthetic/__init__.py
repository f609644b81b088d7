"""Synthetic blood smears with exact ground truth, for the demo, the tests and training.

Everything is drawn as optical density: red cells, nucleated cells, then illumination and noise.
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
