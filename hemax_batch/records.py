"""What flows between the rooms: frozen, picklable records whose shapes are checked when they are made.

No open handles, no dicts of things. Coordinates are level-0 pixels of the slide unless a name says otherwise;
rectangles are x0, y0, x1, y1, half-open.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from itertools import chain

import numpy as np

from . import vocabulary

Rect = tuple[int, int, int, int]

PICTURE_UM = 24.0  # side of a cell's picture, whose middle is the middle of the cell's box: promyelocytes reach 21 µm
#: A cell this near to its patch's middle is the one that the patch is centred on: candidates sit on nuclei, cells are 7-20 µm wide.
CENTRAL_CELL_UM = 5.0


@dataclass(frozen=True)
class Slide:
    """One slide as found: enough to open it again in another process."""

    path: str  # absolute
    slide_id: str  # unique and file-system-safe: the name of its results folder
    fingerprint: str  # of its content, cheap but sound (see slides.reader)
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

    def __post_init__(self):
        if self.width < 1 or self.height < 1:
            raise ValueError(f"slide size {self.width}x{self.height}")
        if len(self.level_sizes) != len(self.level_downsamples):
            raise ValueError(
                f"{len(self.level_sizes)} levels, {len(self.level_downsamples)} downsamples"
            )


@dataclass(frozen=True)
class StainProfile:
    """How this slide is stained, measured once on its coarsest useful view so that every region agrees.

    Optical density is -log10((v + 1) / (background + 1)), per channel.
    """

    background_rgb: tuple[float, float, float]  # clear glass, 0..255
    rbc_od_rgb: tuple[float, float, float]  # a typical red cell
    nucleus_od_threshold: float  # the screen's threshold, on the scale that slides.screening names
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Region:
    """The unit of work: a core that owns what is centred in it, and the wider window that is looked at."""

    index: int
    core: Rect
    window: Rect


@dataclass(frozen=True)
class TilePlan:
    """A slide's regions: cores partition the part of the plane that holds anything; blank glass is left out."""

    slide: Slide
    stain: StainProfile
    regions: tuple[Region, ...]
    scanned_mm2: float  # area of the cores of `regions`
    blank_mm2: float  # area left out as blank glass


@dataclass(frozen=True)
class PatchBatch:
    """Patches at the network's working scale.

    pixels   uint8 [B, 3, H, W]
    origins  float64 [B, 2], level-0 x, y of each patch's top-left corner
    scale    level-0 pixels per patch pixel
    """

    pixels: np.ndarray
    origins: np.ndarray
    scale: float

    def __post_init__(self):
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
    """N cells as parallel arrays, all of one slide.

    boxes_xyxy       float32 [N, 4], level-0 pixels
    scores           float32 [N], that there is a cell at all (1 - no-object)
    class_probs      float32 [N, K], vocabulary.CLASSES, each row sums to 1
    attribute_probs  float32 [N, A], per attribute (vocabulary.attribute_slices) each sums to 1
    mask_xy          int32 [N, 2], level-0 x, y of the mask crop's top-left pixel
    mask_hw          int32 [N, 2], its height and width in level-0 pixels
    masks            N packed crops (pack_mask) at level-0 resolution
    off_centre_um    float32 [N], distance of the cell from the centre of the patch that saw it
    region_index     int32 [N], the region whose task found it
    pictures         N JPEGs for the report, PICTURE_UM a side round the middle of the box (b"" where none was kept);
                     while a slide is published, where each lies in its journal (results.region_blobs)
    ood_score        float32 [N], how unlike the known cells each looks: above 1, more than 99 in 100 of them
                     (model.out_of_distribution); 0 where the weights cannot say
    outlines         N texts, the masks' outlines as cells.geojson holds them (outputs.outlines; b"" where they were not
                     traced yet); while a slide is published, where each lies, as of `pictures`
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
    ood_score: np.ndarray | None = None  # an array once it is made
    outlines: tuple[bytes, ...] | None = None  # N of them likewise

    def __post_init__(self):
        n = len(self.boxes_xyxy)
        if self.ood_score is None:
            object.__setattr__(self, "ood_score", np.zeros(n, np.float32))
        if self.outlines is None:
            object.__setattr__(self, "outlines", (b"",) * n)
        wanted = {
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
        for name, shape in wanted.items():
            if getattr(self, name).shape != shape:
                raise ValueError(
                    f"Cells.{name} has shape {getattr(self, name).shape}, expected {shape}"
                )
        if not len(self.masks) == len(self.pictures) == len(self.outlines) == n:
            lengths = f"{len(self.masks)} masks, {len(self.pictures)} pictures, {len(self.outlines)} outlines"
            raise ValueError(f"{n} boxes, {lengths}")

    def __len__(self) -> int:
        return len(self.boxes_xyxy)

    @classmethod
    def empty(cls) -> Cells:
        """No cells."""
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

    def take(self, rows) -> Cells:
        """The cells at integer (or boolean) `rows`, in that order."""
        rows = np.arange(len(self))[rows]
        picked = {}
        for f in fields(self):
            value = getattr(self, f.name)
            picked[f.name] = (
                tuple(value[i] for i in rows) if isinstance(value, tuple) else value[rows]
            )
        return Cells(**picked)

    @staticmethod
    def concat(parts: list[Cells]) -> Cells:
        """All cells of `parts` in order; the empty list gives no cells."""
        if len(parts) < 2:
            return parts[0] if parts else Cells.empty()
        joined = {}
        for f in fields(Cells):
            values = [getattr(p, f.name) for p in parts]
            joined[f.name] = (
                tuple(chain.from_iterable(values))
                if isinstance(values[0], tuple)
                else np.concatenate(values)
            )
        return Cells(**joined)

    def with_region(self, index: int) -> Cells:
        """The same cells, marked as found by region `index`."""
        return replace(self, region_index=np.full(len(self), index, np.int32))


@dataclass(frozen=True)
class FilmSquares:
    """How dense the film is in S squares of the slide-wide lattice of slides.zones; equal wherever they are measured.

    places        int32 [S, 2], column and row of each square
    film          int32 [S], its lattice pixels that are not of nuclei; of these
    covered       int32 [S], by red cells, and
    overlaid      int32 [S], by several on one another
    single_od     float64 [S], green optical density above the glass, summed over those covered and not overlaid
    nuclei        int32 [S], pixels of nuclei
    nuclear_od    float64 [S], their nuclear stain above the glass, summed
    """

    places: np.ndarray
    film: np.ndarray
    covered: np.ndarray
    overlaid: np.ndarray
    single_od: np.ndarray
    nuclei: np.ndarray
    nuclear_od: np.ndarray

    def __post_init__(self):
        n = len(self.places)
        for f in fields(self):
            shape = getattr(self, f.name).shape
            if shape != ((n, 2) if f.name == "places" else (n,)):
                raise ValueError(f"Squares.{f.name} has shape {shape} for {n} squares")

    @classmethod
    def empty(cls) -> FilmSquares:
        """No squares."""
        i, d = np.zeros(0, np.int32), np.zeros(0)
        return cls(np.zeros((0, 2), np.int32), i, i, i, d, i, d)


@dataclass(frozen=True)
class OverviewPiece:
    """A region's part of the slide's overview: uint8 [h, w, 3], its top-left at pixel (x, y) of the overview."""

    x: int
    y: int
    pixels: np.ndarray

    @classmethod
    def empty(cls) -> OverviewPiece:
        """Nothing."""
        return cls(0, 0, np.zeros((0, 0, 3), np.uint8))


@dataclass(frozen=True)
class DamagedArea:
    """A place of a slide (level-0 pixels) whose pixels could not be decoded, and why: usually one tile."""

    rect: Rect
    reason: str


@dataclass(frozen=True)
class RegionResult:
    """What one task brings back: its cells and what it cost. Small: of the slide's pixels only pictures of its cells
    and its part of the overview.

    rbc_diameters_um  float32 [R], single red cells measured in this region (a bounded sample)
    passed_over_um2   area of the squares in which the screen saw nothing
    audited_um2, audit_cells   area of the random sample of them, and cells HemaX found there
    squares           how dense the film is in every square that the core reaches into
    damaged           what could not be decoded of all that this region read, beyond its core too
    """

    region_index: int
    cells: Cells
    rbc_diameters_um: np.ndarray
    proposals: int  # places the screen proposed inside the core
    patches: int  # patches sent through the network
    saturated: int  # patches with as many cells as queries, re-read in smaller windows
    platelets: int  # seen in patches, not tabulated
    passed_over_um2: float = 0.0
    audited_um2: float = 0.0
    audit_cells: int = 0
    squares: FilmSquares = field(default_factory=FilmSquares.empty)
    overview: OverviewPiece = field(default_factory=OverviewPiece.empty)
    focus: float = float("nan")  # variance of the Laplacian at the screen's scale, stain-normalised
    seconds_read: float = 0.0
    seconds_network: float = 0.0
    failure: str = ""  # why this region could not be read ("" = it could)
    notes: tuple[str, ...] = field(default=())
    damaged: tuple[DamagedArea, ...] = field(default=())


@dataclass(frozen=True)
class RegionReport:
    """What is known of one region once its slide is counted: a row of `regions.csv`. NaN where nothing was measured.

    state      "read" or "unreadable"
    zone       where most of its film lies ("blank" where there is none, "" where it could not be read)
    used       whether the cells of that zone count
    reason     why some or all of it is left out
    quality    what is wrong with focus or stain
    zones_mm2  area of each of vocabulary.ZONES
    cover, overlap, stain_contrast, nuclear_contrast   see slides.zones.film_statistics, of the squares it reaches into
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
    """A slide's cells after ownership and deduplication, in a fixed order of place.

    ids      int64 [N], 1..N: row-major by the centre's (y, x) in level-0 pixels; the value in the masks
    dropped  counts by reason ("duplicate", "platelet", "below score", …)
    """

    cells: Cells
    ids: np.ndarray
    dropped: dict[str, int]

    def __post_init__(self):
        if self.ids.shape != (len(self.cells),):
            raise ValueError(f"{len(self.cells)} cells, ids {self.ids.shape}")
