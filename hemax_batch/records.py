"""Records that flow between the packages: frozen, picklable, with checked shapes.

They contain no open handles and no dicts of objects. Coordinates are level-0 pixels of the slide
unless a name says otherwise. Rectangles are x0, y0, x1, y1, half-open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import chain
from typing import Any

import numpy as np

from . import vocabulary

Rect = tuple[int, int, int, int]

# Side of a cell's picture. Its middle is the middle of the cell's box. Promyelocytes reach 21 µm.
PICTURE_UM = 24.0
#: The cell on which a patch is centred lies within this distance of the patch's middle. Candidates
#: lie on nuclei, and cells are 7-20 µm wide.
CENTRAL_CELL_UM = 5.0
CENTRAL_CELL_UM = 5.0


@dataclass(frozen=True)
class Slide:
    """One slide, with all that is needed to open it again in another process."""

    path: str  # absolute
    slide_id: str  # unique and safe on any file system: the name of its results folder
    fingerprint: str  # of the content (see slides.fingerprint)
    width: int
    height: int
    mpp: float  # µm per level-0 pixel
    level_sizes: tuple[tuple[int, int], ...]  # (width, height), finest first
    level_downsamples: tuple[float, ...]
    vendor: str
    backend: str  # which reader opened it: "tiff", "openslide" or "image"
    image: int = 0  # which of several in the file, from 1; 0: as the reader takes it
    focus_plane: int = 0  # likewise
    orientation: int = 1  # the file's tag; pixels are given as stored
    notes: tuple[str, ...] = ()  # what was read of the file and what was left
    warnings: tuple[str, ...] = ()  # what of it may spoil the results

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"slide size {self.width}x{self.height}")
        if len(self.level_sizes) != len(self.level_downsamples):
            raise ValueError(
                f"{len(self.level_sizes)} levels, {len(self.level_downsamples)} downsamples"
            )


@dataclass(frozen=True)
class StainProfile:
    """The stain of a slide, measured once on a bounded sample, so that all regions agree.

    Optical density is -log10((v + 1) / (background + 1)), per channel.
    """

    background_rgb: tuple[float, float, float]  # clear glass, 0..255
    rbc_od_rgb: tuple[float, float, float]  # a typical red cell
    nucleus_od_threshold: float  # the screen's threshold, in the unit of slides.screen_view
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Region:
    """The unit of work: a core that owns the cells centred in it, and the window that is read."""

    index: int
    core: Rect
    window: Rect


@dataclass(frozen=True)
class TilePlan:
    """The regions of a slide. Their cores cover all of it but blank glass."""

    slide: Slide
    stain: StainProfile
    regions: tuple[Region, ...]
    scanned_mm2: float  # area of the cores of `regions`
    blank_mm2: float  # area left out as blank glass
    scale_warning: str = ""  # what the red cells say against the µm/px

    @property
    def warnings(self) -> tuple[str, ...]:
        """Everything known before the run that may spoil the results."""
        scale = (self.scale_warning,) if self.scale_warning else ()
        return (*scale, *self.slide.warnings, *self.stain.warnings)


@dataclass(frozen=True)
class PatchBatch:
    """B patches at the network's working scale.

    Attributes
    ----------
    pixels
        uint8 [B, 3, H, W].
    origins
        float64 [B, 2]: level-0 (x, y) of each patch's top-left corner.
    scale
        Level-0 pixels per patch pixel.
    """

    pixels: np.ndarray
    origins: np.ndarray
    scale: float

    def __post_init__(self) -> None:
        if self.pixels.dtype != np.uint8 or self.pixels.ndim != 4 or self.pixels.shape[1] != 3:
            raise ValueError(
                f"pixels must be uint8 [B, 3, H, W], not {self.pixels.dtype} {self.pixels.shape}"
            )
        if self.origins.shape != (len(self.pixels), 2):
            raise ValueError(f"{len(self.pixels)} patches, origins {self.origins.shape}")

    def __len__(self) -> int:
        return len(self.pixels)


@dataclass(frozen=True)
class Cells:
    """N cells of one slide as parallel arrays.

    Attributes
    ----------
    boxes_xyxy
        float32 [N, 4], level-0 pixels.
    scores
        float32 [N]: probability that there is a cell (1 - no-object).
    class_probs
        float32 [N, K] in the order of vocabulary.CLASSES. Each row sums to 1.
    attribute_probs
        float32 [N, A]. Each attribute (vocabulary.attribute_slices) sums to 1.
    mask_xy, mask_hw
        int32 [N, 2]: level-0 (x, y) of the mask crop's top-left pixel, and its height and width.
    masks
        N packed crops (mask_packing.pack_mask) at level-0 resolution.
    off_centre_um
        float32 [N]: distance of the cell from the centre of its patch.
    region_index
        int32 [N]: the region whose task found the cell.
    pictures
        N JPEGs for the report, PICTURE_UM a side around the middle of the box. b"" means none.
        While a slide is published, each is a place in the journal (results.region_blobs).
    ood_score
        float32 [N]: out-of-distribution score (model.out_of_distribution). Above 1 a cell is less
        like the known cells than 99 in 100 of them. 0 if the weights cannot compute it. Default: 0.
    outlines
        N texts: the masks' outlines as in cells.geojson (outputs.outlines). b"" means not traced.
        While a slide is published, each is a place in the journal. Default: b"".
    """

    boxes_xyxy: np.ndarray
    scores: np.ndarray
    class_probs: np.ndarray
    attribute_probs: np.ndarray
    mask_xy: np.ndarray
    mask_hw: np.ndarray
    masks: tuple[bytes, ...]
    off_centre_um: np.ndarray
    region_index: np.ndarray
    pictures: tuple[bytes, ...]
    ood_score: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    outlines: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.boxes_xyxy)
        if not len(self.ood_score):
            object.__setattr__(self, "ood_score", np.zeros(n, np.float32))
        if not self.outlines:
            object.__setattr__(self, "outlines", (b"",) * n)
        shapes = {
            "boxes_xyxy": (n, 4),
            "scores": (n,),
            "class_probs": (n, vocabulary.N_CLASSES),
            "attribute_probs": (n, vocabulary.N_ATTRIBUTE_STATES),
            "mask_xy": (n, 2),
            "mask_hw": (n, 2),
            "off_centre_um": (n,),
            "region_index": (n,),
            "ood_score": (n,),
        }
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(
                    f"Cells.{name} has shape {getattr(self, name).shape}, expected {shape}"
                )
        if not len(self.masks) == len(self.pictures) == len(self.outlines) == n:
            lengths = (
                f"{len(self.masks)} masks, {len(self.pictures)} pictures, "
                f"{len(self.outlines)} outlines"
            )
            raise ValueError(f"{n} boxes, {lengths}")

    def __len__(self) -> int:
        return len(self.boxes_xyxy)

    @classmethod
    def empty(cls) -> Cells:
        """Return a record without cells."""
        f, i = np.float32, np.int32
        return cls(
            np.zeros((0, 4), f),
            np.zeros(0, f),
            np.zeros((0, vocabulary.N_CLASSES), f),
            np.zeros((0, vocabulary.N_ATTRIBUTE_STATES), f),
            np.zeros((0, 2), i),
            np.zeros((0, 2), i),
            (),
            np.zeros(0, f),
            np.zeros(0, i),
            (),
        )

    def take(self, rows: np.ndarray | Sequence[int] | slice) -> Cells:
        """Return the cells at integer (or boolean) `rows`, in that order."""
        indices = np.arange(len(self))[rows]
        taken: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            taken[f.name] = (
                tuple(value[i] for i in indices) if isinstance(value, tuple) else value[indices]
            )
        return Cells(**taken)

    @staticmethod
    def concat(parts: list[Cells]) -> Cells:
        """Return all cells of `parts` in order. The empty list gives no cells."""
        if len(parts) < 2:
            return parts[0] if parts else Cells.empty()
        joined: dict[str, Any] = {}
        for f in fields(Cells):
            values = [getattr(p, f.name) for p in parts]
            joined[f.name] = (
                tuple(chain.from_iterable(values))
                if isinstance(values[0], tuple)
                else np.concatenate(values)
            )
        return Cells(**joined)

    def with_region(self, index: int) -> Cells:
        """Return the same cells with region `index` as the region that found them."""
        return replace(self, region_index=np.full(len(self), index, np.int32))


@dataclass(frozen=True)
class FilmSquares:
    """The density of the film in S squares of the slide (slides.zones).

    A square has equal values in every region that measures it.

    Attributes
    ----------
    places
        int32 [S, 2]: column and row of each square.
    film
        int32 [S]: lattice pixels outside nuclei.
    covered
        int32 [S]: pixels of `film` covered by red cells.
    overlaid
        int32 [S]: pixels of `covered` with several red cells on top of each other.
    single_od
        float64 [S]: green optical density above the glass, summed over pixels that are covered and
        not overlaid.
    nuclei
        int32 [S]: pixels of nuclei.
    nuclear_od
        float64 [S]: nuclear stain above the glass, summed over pixels of nuclei.
    """

    places: np.ndarray
    film: np.ndarray
    covered: np.ndarray
    overlaid: np.ndarray
    single_od: np.ndarray
    nuclei: np.ndarray
    nuclear_od: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.places)
        for f in fields(self):
            shape = getattr(self, f.name).shape
            if shape != ((n, 2) if f.name == "places" else (n,)):
                raise ValueError(f"FilmSquares.{f.name} has shape {shape} for {n} squares")

    @classmethod
    def empty(cls) -> FilmSquares:
        """Return a record without squares."""
        i, d = np.zeros(0, np.int32), np.zeros(0)
        return cls(np.zeros((0, 2), np.int32), i, i, i, d, i, d)


@dataclass(frozen=True)
class OverviewPiece:
    """A region's part of the slide's overview.

    `pixels` is uint8 [h, w, 3]. Its top-left pixel is pixel (x, y) of the overview.
    """

    x: int
    y: int
    pixels: np.ndarray

    @classmethod
    def empty(cls) -> OverviewPiece:
        """Return a piece without pixels."""
        return cls(0, 0, np.zeros((0, 0, 3), np.uint8))


@dataclass(frozen=True)
class DamagedArea:
    """A place of a slide (level-0 pixels) that could not be decoded: usually one tile."""

    rect: Rect
    reason: str


@dataclass(frozen=True)
class RegionResult:
    """The result of one region's task: its cells and its costs.

    It is small. Of the slide's pixels it holds only pictures of cells and a piece of the overview.

    Attributes
    ----------
    rbc_diameters_um
        float32 [R]: diameters of a bounded sample of single red cells.
    proposals
        Candidates of the screen inside the core.
    patches
        Patches that the network saw.
    saturated
        Patches with as many cells as queries. They are read again in smaller windows.
    platelets
        Platelets found in patches. They are not tabulated.
    passed_over_um2
        Area of the squares in which the screen found nothing.
    audited_um2, audit_cells
        Area of the random sample of those squares, and cells that the network found there.
    squares
        Density of the film in every square that the core reaches into.
    focus
        Variance of the Laplacian at the screen's scale, normalised by the stain.
    failure
        Why the region could not be read. "" means that it was read.
    damaged
        Places that could not be decoded, of all that the region read, also beyond its core.
    """

    region_index: int
    cells: Cells
    rbc_diameters_um: np.ndarray
    proposals: int
    patches: int
    saturated: int
    platelets: int
    passed_over_um2: float = 0.0
    audited_um2: float = 0.0
    audit_cells: int = 0
    squares: FilmSquares = field(default_factory=FilmSquares.empty)
    overview: OverviewPiece = field(default_factory=OverviewPiece.empty)
    focus: float = float("nan")
    seconds_read: float = 0.0
    seconds_network: float = 0.0
    failure: str = ""
    notes: tuple[str, ...] = field(default=())
    damaged: tuple[DamagedArea, ...] = field(default=())


@dataclass(frozen=True)
class RegionReport:
    """What is known of one region after its slide is counted: a row of `regions.csv`.

    A value that was not measured is NaN.

    Attributes
    ----------
    state
        "read" or "unreadable".
    zone
        Zone of most of its film. "blank" if there is none, "" if the region could not be read.
    used
        Whether the cells of that zone count.
    reason
        Why some or all of the region is left out.
    quality
        Faults of focus or stain.
    zones_mm2
        Area of each of vocabulary.ZONES.
    cover, overlap, stain_contrast, nuclear_contrast
        See slides.zones.film_statistics, over the squares that the core reaches into.
    """

    index: int
    core: Rect
    state: str
    zone: str
    used: bool
    reason: str
    quality: str
    area_mm2: float
    used_mm2: float
    left_out_mm2: float
    zones_mm2: tuple[float, ...]
    focus: float
    stain_contrast: float
    nuclear_contrast: float
    cover: float
    overlap: float
    rbc_per_mm2: float
    cells: int
    white_cells: int
    white_cells_used: int
    unreadable_mm2: float = 0.0  # all of a region's area, or that of its damaged tiles


@dataclass(frozen=True)
class MergedCells:
    """A slide's cells after ownership and deduplication, in a fixed order.

    Attributes
    ----------
    ids
        int64 [N], 1..N: row-major by the centre's (y, x) in level-0 pixels. The masks hold the ids.
    dropped
        Counts by reason ("duplicate", "platelet", "below score", …).
    """

    cells: Cells
    ids: np.ndarray
    dropped: dict[str, int]

    def __post_init__(self) -> None:
        if self.ids.shape != (len(self.cells),):
            raise ValueError(f"{len(self.cells)} cells, ids {self.ids.shape}")
