"""Predictor: turns patches into cells in the slide's level-0 pixels.

The network runs in an engine (`engines`). This module uses numpy only, so a worker whose engine is
OpenVINO never loads PyTorch. On the CPU the network runs patch by patch on one thread. The result
for a patch then does not depend on the batch, the number of workers or the order. Larger batches
are not faster there.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from .. import vocabulary
from ..geometry import centres, corners, pairwise_iou
from ..mask_packing import pack_mask
from ..records import CENTRAL_CELL_UM, PICTURE_UM, Cells, PatchBatch
from . import checkpoint
from .engines.selection import as_engine, load_engine
from .mask_drawing import draw_mask
from .network_output import Engine, NetworkProbabilities
from .out_of_distribution import FeatureScorer, box_mean_features, colour_features
from .test_time_augmentation import augment_unsure_cells

if TYPE_CHECKING:
    from .hemax import HemaX

#: Two queries of one patch with at least this IoU are the same cell.
SAME_CELL_IOU = 0.6
PLATELET = vocabulary.CLASS_NAMES.index("platelet")
#: A cell whose box is nearer to the patch's border is cut by it.
_BORDER_PX = 1.5


@dataclass(frozen=True)
class Prediction:
    """Cells of a batch of B patches.

    Attributes
    ----------
    cells : Cells
        N nucleated cells. Platelets are counted and left out by default.
    patch_index : ndarray of int32 [N]
        Patch of each cell.
    cut : ndarray of bool [N]
        Whether the cell touches its patch's border.
    saturated : ndarray of bool [B]
        Whether every query of the patch found a cell, so there may be more cells.
    platelets : int
        Number of platelets.
    """

    cells: Cells
    patch_index: np.ndarray
    cut: np.ndarray
    saturated: np.ndarray
    platelets: int


@dataclass(frozen=True)
class _PatchOutput:
    """Output for patch `index` of a batch, and where the patch lies on its slide.

    `row` is the patch's row in `probabilities`, `slide_wh` the slide's size in level-0 pixels.
    """

    probabilities: NetworkProbabilities
    row: int
    batch: PatchBatch
    index: int
    level0_mpp: float
    slide_wh: tuple[int, int] | None

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height of the patch in pixels."""
        height, width = self.batch.pixels.shape[2:]
        return width, height

    @property
    def origin_xy(self) -> np.ndarray:
        """Level-0 position of the patch's top-left corner."""
        origin: np.ndarray = self.batch.origins[self.index]
        return origin

    def is_cut(self, boxes_xyxy: np.ndarray) -> np.ndarray:
        """Return which level-0 boxes [N, 4] touch the patch's border: bool [N]."""
        in_patch = (boxes_xyxy - np.tile(self.origin_xy, 2)) / self.batch.scale
        low, high = in_patch[:, :2], in_patch[:, 2:]
        cut: np.ndarray = (low < _BORDER_PX).any(1) | (
            high > np.array(self.size_wh) - _BORDER_PX
        ).any(1)
        return cut


class Predictor:
    """A network with its card, called with a `PatchBatch`.

    Parameters
    ----------
    model
        An engine, or a HemaX that runs in PyTorch.
    card
        Card of the weights.
    device
        "cpu" or "cuda".
    batch_size
        Patches per call of the network; 1 on the CPU and 64 on a GPU by default.
    platelets
        Whether platelets become cells too, for evaluation.
    ood_detector
        Detector of cells that are out of distribution; None gives every cell a score of 0.
    test_time_augmentation
        Whether unsure cells are predicted again in other orientations.
    """

    def __init__(
        self,
        model: HemaX | Engine,
        card: checkpoint.WeightsCard,
        device: str = "cpu",
        batch_size: int | None = None,
        platelets: bool = False,
        ood_detector: FeatureScorer | None = None,
        test_time_augmentation: bool = True,
    ) -> None:
        self.network, self.card = as_engine(model, device), card
        self.ood_detector, self.platelets = ood_detector, platelets
        self.test_time_augmentation = test_time_augmentation
        self.batch_size = batch_size or (1 if self.device == "cpu" else 64)

    @classmethod
    def load(
        cls,
        path: str | Path | None = None,
        device: str = "cpu",
        batch_size: int | None = None,
        platelets: bool = False,
        engine: str = "torch",
        test_time_augmentation: bool = True,
        precision: str = "f32",
    ) -> Predictor:
        """Load a predictor from a checkpoint; None loads the shipped weights.

        Raises
        ------
        WeightsError
            As `checkpoint.read_card`.
        EngineError
            The engine's package is not installed.
        """
        network, card = load_engine(engine, path, device, precision)
        detector = checkpoint.load_ood_detector(path)
        return cls(network, card, device, batch_size, platelets, detector, test_time_augmentation)

    @property
    def device(self) -> str:
        """Device that the network runs on, "cpu" or "cuda"."""
        return str(self.network.device)

    @property
    def model(self) -> HemaX:
        """The HemaX module; PyTorch only."""
        from .engines.torch_engine import TorchEngine

        if not isinstance(self.network, TorchEngine):
            raise TypeError(f"{type(self.network).__name__} holds no PyTorch module")
        return self.network.model

    def __call__(
        self, batch: PatchBatch, level0_mpp: float, slide_size: tuple[int, int] | None = None
    ) -> Prediction:
        """Predict the cells of every patch.

        Parameters
        ----------
        batch
            Patches at the network's working scale.
        level0_mpp
            µm per level-0 pixel.
        slide_size
            Width and height of the slide; masks and boxes are clipped to it.
        """
        cells: list[Cells] = []
        patch_index: list[int] = []
        cut, platelets = [np.zeros(0, bool)], 0
        saturated = np.zeros(len(batch), bool)
        for start in range(0, len(batch), self.batch_size):
            probabilities = self._probabilities(batch.pixels[start : start + self.batch_size])
            for row in range(len(probabilities.scores)):
                index = start + row
                patch = _PatchOutput(probabilities, row, batch, index, level0_mpp, slide_size)
                found, is_cut, n_platelets, saturated[index] = self._patch_cells(patch)
                cells.append(found)
                patch_index += [index] * len(found)
                cut.append(is_cut)
                platelets += n_platelets
        indices = np.array(patch_index, np.int32)
        return Prediction(Cells.concat(cells), indices, np.concatenate(cut), saturated, platelets)

    def _probabilities(self, pixels: np.ndarray) -> NetworkProbabilities:
        """Run the network on patches uint8 [B, 3, H, W], and again on unsure cells."""
        first = NetworkProbabilities.from_output(self.network(pixels), self.card.temperature)
        if not self.test_time_augmentation:
            return first
        return augment_unsure_cells(
            first, pixels, self.card.mpp, self.card.temperature, self.network, self.batch_size
        )

    def _patch_cells(self, patch: _PatchOutput) -> tuple[Cells, np.ndarray, int, bool]:
        """Return a patch's cells, whether each is cut, its platelets, and whether it is saturated.

        Steps: confident queries whose centre is in the patch; one query per cell; scores and
        masks; cells that touch the border.
        """
        probabilities, row = patch.probabilities, patch.row
        size = np.array(patch.size_wh, float)
        confident = np.flatnonzero(probabilities.confident[row])
        is_saturated = len(confident) == probabilities.scores.shape[1]
        boxes = corners(probabilities.boxes[row])
        centre = centres(boxes)
        confident = confident[((centre[confident] >= 0) & (centre[confident] <= size)).all(1)]
        keep = _suppress_duplicates(boxes, probabilities.scores[row], confident)
        is_platelet = probabilities.class_probs[row][keep].argmax(1) == PLATELET
        wanted = keep if self.platelets else keep[~is_platelet]
        ood_score = self._ood_scores(patch, boxes[wanted])
        made = [
            self._make_cell(patch, int(q), boxes[q], ood_score[k : k + 1])
            for k, q in enumerate(wanted)
        ]
        cells = Cells.concat([c for c in made if c is not None])
        cut = patch.is_cut(cells.boxes_xyxy)
        return cells, cut, int(is_platelet.sum()), is_saturated

    def _ood_scores(self, patch: _PatchOutput, boxes: np.ndarray) -> np.ndarray:
        """Score boxes [N, 4] of a patch: float32 [N], 0 without a detector."""
        if self.ood_detector is None or not len(boxes):
            return np.zeros(len(boxes), np.float32)
        feature_map = patch.probabilities.backbone_features[patch.row]
        deep = box_mean_features(feature_map, boxes, patch.size_wh)
        colours = colour_features(patch.batch.pixels[patch.index], boxes)
        return self.ood_detector.score(np.concatenate([deep, colours], 1))

    def _make_cell(
        self, patch: _PatchOutput, q: int, box: np.ndarray, ood_score: np.ndarray
    ) -> Cells | None:
        """Make the record of one query; the cell's box is the extent of its mask."""
        probabilities, row, batch = patch.probabilities, patch.row, patch.batch
        logits = probabilities.masks[probabilities.mask_row[row, q]]
        drawn = draw_mask(logits, box, patch.origin_xy, batch.scale, patch.size_wh, patch.slide_wh)
        if drawn is None:
            return None
        h, w = drawn.label.shape
        extent = np.array([drawn.x, drawn.y, drawn.x + w, drawn.y + h], np.float32)
        centre = centres(extent[None])[0]
        patch_centre = patch.origin_xy + np.array(patch.size_wh) / 2 * batch.scale
        off_um = float(np.hypot(*(centre - patch_centre)) * patch.level0_mpp)
        centre_px = (centre - patch.origin_xy) / batch.scale
        # No run keeps a cut cell away from the centre. Its picture would be encoded for nothing.
        is_dropped = off_um > 2 * CENTRAL_CELL_UM and bool(patch.is_cut(extent[None])[0])
        return Cells(
            boxes_xyxy=extent[None],
            scores=probabilities.scores[row, q : q + 1].astype(np.float32),
            class_probs=probabilities.class_probs[row, q : q + 1],
            attribute_probs=probabilities.attribute_probs[row, q : q + 1],
            mask_xy=np.array([[drawn.x, drawn.y]], np.int32),
            mask_hw=np.array([[h, w]], np.int32),
            masks=(pack_mask(drawn.label),),
            off_centre_um=np.array([off_um], np.float32),
            region_index=np.zeros(1, np.int32),
            pictures=(b"" if is_dropped else self._picture(batch.pixels[patch.index], centre_px),),
            ood_score=ood_score,
        )

    def _picture(self, pixels: np.ndarray, centre_px: np.ndarray) -> bytes:
        """Cut a JPEG of `PICTURE_UM` per side around the cell; white outside the patch."""
        side = round(PICTURE_UM / self.card.mpp)
        x, y = np.round(centre_px - side / 2).astype(int)
        image = Image.fromarray(pixels.transpose(1, 2, 0))
        canvas = Image.new("RGB", (side, side), (255, 255, 255))
        canvas.paste(image, (-int(x), -int(y)))
        buffer = io.BytesIO()
        canvas.save(buffer, "JPEG", quality=85)
        return buffer.getvalue()


def _suppress_duplicates(
    boxes_xyxy: np.ndarray, scores: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Keep the query of highest score on each cell: indices in falling order of score."""
    kept: list[int] = []
    for q in rows[np.argsort(-scores[rows], kind="stable")]:
        if not kept or pairwise_iou(boxes_xyxy[q : q + 1], boxes_xyxy[kept]).max() < SAME_CELL_IOU:
            kept.append(int(q))
    return np.array(kept, int)
