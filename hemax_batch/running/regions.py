"""The unit of work: everything that happens to one region of a slide, in whichever process.

What is found must not depend on how the slide was cut into regions. So each candidate is looked at by the one region
whose core holds its centre, in a patch centred on it, whose pixels depend on the candidate alone; what a patch leads to
(re-reading it in smaller windows, a follow-up patch) depends on that patch and the candidates round it alone; and the
slide's cells are the union over its candidates, deduplicated once over the whole slide (cells.merge), the view most
central in its patch first. The audit's sample is counted only: the cells in it never join the slide's.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..cells.measure import measure
from ..cells.plausible import ANY_NUCLEUS_FRACTION
from ..errors import ReadError, SlideError, WeightsError
from ..geometry import inside
from ..outputs.outlined import outlined
from ..records import OWN_UM, Cells, Region, RegionResult, Slide, StainProfile
from ..slides import quality, screen
from ..slides.overview import overview_piece
from ..slides.patches import cut_patches
from ..slides.reader import SlideReader, reopen
from ..slides.zones import measure_squares
from .eye import Eye, Seen
from .last_words import ended_after, gpu_losses_told

LARGEST_CELL_UM = (
    22.0  # promyelocytes and blasts reach 21 µm: whole in some patch of --exhaustive's lattice
)
EDGE_UM = 1.0  # by which an outline may fall short of its patch's border
FIELD_STEP_UM, FIELD_MPP, FIELD_PX = (
    100.0,
    0.5,
    150,
)  # 75 µm of every 100: some ten single red cells each
_OPEN_SLIDES = 3  # kept open per thread that works: this slide's, and the next one's first regions
AUDIT_SEED = 0  # one draw for ever: the same slide gives the same sample


@dataclass(frozen=True)
class Look:
    """How every region of a run is looked at. `device`: "cpu", "cuda" or "auto" (a GPU where this process sees one).

    batch_size: patches at a time; None: as suits the device. engine: as RunSettings.
    timeout_s: a region that takes longer ends its worker process, which is started anew; 0: no limit.
    """

    weights: str | None
    weights_sha256: str
    exhaustive: bool = False
    audit: float = 0.0
    batch_size: int | None = None
    device: str = "auto"
    timeout_s: float = 0.0
    engine: str = "torch"


@dataclass(frozen=True)
class RegionJob:
    """One task: small, picklable, complete."""

    slide: Slide
    stain: StainProfile
    region: Region
    look: Look


def process_region(job: RegionJob) -> RegionResult:
    """Look at one region; what cannot be read is tried once more with a fresh handle, then reported as its failure.

    A failure concerns this region alone. Raises WeightsError where this process cannot load the same weights, and
    GpuLostError, after which this process ends itself if it is a worker.
    """
    with ended_after(job.look.timeout_s), gpu_losses_told():
        predictor = load_predictor(
            job.look.weights, job.look.weights_sha256, job.look.device, job.look.engine
        )
        try:
            return _look_at(job, predictor)
        except ReadError:  # OpenSlide's errors latch: only a new handle can succeed
            _forget(job.slide)
        except SlideError as error:
            return unreadable(job.region.index, str(error))
        try:
            return _look_at(job, predictor)
        except SlideError as error:
            _forget(job.slide)
            return unreadable(job.region.index, str(error))


def unreadable(region_index: int, why: str) -> RegionResult:
    """The result of a region that could not be done."""
    return RegionResult(
        region_index, Cells.empty(), np.zeros(0, np.float32), 0, 0, 0, 0, failure=why
    )


@lru_cache(maxsize=1)
def load_predictor(weights: str | None, sha256: str, device: str, engine: str = "torch"):
    """This process's network, loaded once. WeightsError where the file is not the one that the run began with."""
    from ..model.predictor import Predictor

    device = "cpu" if engine == "openvino" else _device(device)
    predictor = Predictor.load(weights, device, engine=engine)
    if predictor.card.sha256 != sha256:
        raise WeightsError(
            f"{predictor.card.path}: SHA-256 {predictor.card.sha256[:12]}… here, {sha256[:12]}… where the run began; "
            "every worker needs the same weights file (--weights on a shared folder)"
        )
    return predictor


def _look_at(job: RegionJob, predictor) -> RegionResult:
    """Steps: one coarse look, candidates, density of the film, red cells, patches, crowded patches again in smaller
    windows, follow-ups, outlines, the audit."""
    reader, card, region = _reader(job.slide), predictor.card, job.region
    eye = Eye(reader, predictor, job.look.batch_size)
    begun = time.perf_counter()
    view = screen.read_view(reader, region.window, job.stain)
    candidates = _candidates(job, view, card)
    squares = measure_squares(view, region.core, job.slide)
    overview = overview_piece(view, region.core, job.slide)
    diameters_um, focus = _red_cells(job, reader)
    seconds_screen = time.perf_counter() - begun
    mine = candidates[inside(candidates, region.core)]
    seen = eye.see(mine, card.patch_px)
    windows = eye.see(
        smaller_windows(seen.crowded_xy, card, job.slide.mpp), window_px(card.patch_px)
    )
    if job.look.exhaustive:  # no patch is a cell's own
        keep, again, notes = ~seen.cut, _too_large(seen, job.slide.mpp), ()
    else:
        keep, again = whole_or_own(seen, job.slide.mpp), _uncovered(seen, candidates, job, reader)
        notes = _notes_on_cut(seen, job.slide.mpp)
    follow_ups = eye.see(seen.centres_xy()[again], card.patch_px)
    kept = [seen.cells.take(keep), follow_ups.cells.take(whole_or_own(follow_ups, job.slide.mpp))]
    notes += _notes_on_cut(follow_ups, job.slide.mpp)
    cells = Cells.concat([*kept, windows.cells.take(~windows.cut)]).with_region(region.index)
    cells = outlined(cells)
    patches, platelets = eye.patches, eye.platelets
    passed_over_um2, audited_um2, audit_cells = _audit(job, eye, candidates, card)
    return RegionResult(
        region.index,
        cells,
        diameters_um,
        proposals=len(mine),
        patches=patches,
        saturated=len(seen.crowded_xy),
        platelets=platelets,
        passed_over_um2=passed_over_um2,
        audited_um2=audited_um2,
        audit_cells=audit_cells,
        squares=squares,
        overview=overview,
        focus=focus,
        seconds_read=seconds_screen + eye.seconds_read,
        seconds_network=eye.seconds_network,
        notes=notes + _notes_on_crowds(windows),
    )


def _candidates(job: RegionJob, view: screen.View, card) -> np.ndarray:
    """Where to look, float64 [N, 2]: what the screen proposes in the window, or the lattice that covers it all."""
    if job.look.exhaustive:
        return screen.lattice_centres(
            job.region.window, card.patch_px * card.mpp - LARGEST_CELL_UM, job.slide.mpp
        )
    return screen.propose_in(view, job.region.window)


def _red_cells(job: RegionJob, reader: SlideReader) -> tuple[np.ndarray, float]:
    """Diameters (µm) of single red cells, float32 [R], and the median focus, in one small field of each FIELD_STEP_UM.

    The fields lie on a slide-wide lattice, so that the slide's median does not depend on its regions.
    """
    fields_xy = screen.lattice_centres(job.region.core, FIELD_STEP_UM, job.slide.mpp)
    diameters_um, focuses = [np.zeros(0, np.float32)], []
    for place in fields_xy:
        pixels = cut_patches(reader, place[None], FIELD_MPP, FIELD_PX).pixels[0].transpose(1, 2, 0)
        diameters_um.append(quality.rbc_diameters_um(pixels, FIELD_MPP, job.stain))
        focuses.append(quality.focus(pixels, job.stain))
    known = [value for value in focuses if not math.isnan(value)]
    return np.concatenate(diameters_um), float(np.median(known)) if known else float("nan")


def _uncovered(
    seen: Seen, candidates: np.ndarray, job: RegionJob, reader: SlideReader
) -> np.ndarray:
    """Rows of the cut cells that no candidate stands for, so that no patch would show them whole: int64 [U].

    A window's candidates are exact in its core only (its halo is the screen's support), so round a cell beyond the
    core the screen looks again: whether a cell has a candidate must not depend on who asks.
    """
    reach_px = OWN_UM / job.slide.mpp
    x0, y0, x1, y1 = job.region.core
    rows = []
    for row in np.flatnonzero(seen.cut):
        x, y = seen.centres_xy()[row]
        near = candidates
        if not (x0 + reach_px <= x < x1 - reach_px and y0 + reach_px <= y < y1 - reach_px):
            near = screen.propose(
                reader, _square(x, y, (screen.SUPPORT_UM + OWN_UM) / job.slide.mpp), job.stain
            )
        if not (np.hypot(*(near - (x, y)).T) <= reach_px).any():
            rows.append(row)
    return np.array(rows, int)


def _too_large(seen: Seen, mpp: float) -> np.ndarray:
    """Rows of the cut cells that no patch of the lattice may show whole: int64 [U]. The patch that is nearest such a cell
    shows LARGEST_CELL_UM of it each way, or all."""
    sides_px = (seen.cells.boxes_xyxy[:, 2:] - seen.cells.boxes_xyxy[:, :2]).max(1, initial=0)
    return np.flatnonzero(seen.cut & (sides_px * mpp >= LARGEST_CELL_UM - 2 * EDGE_UM))


def _square(x: float, y: float, half_px: float) -> tuple[int, int, int, int]:
    return (
        math.floor(x - half_px),
        math.floor(y - half_px),
        math.ceil(x + half_px),
        math.ceil(y + half_px),
    )


def whole_or_own(seen: Seen, mpp: float) -> np.ndarray:
    """Rows to keep, bool [N]: cells seen whole, and the cell that a patch is centred on, even if it is cut.

    Other cut cells have a patch of their own, which shows them whole.
    """
    return ~seen.cut | seen.own(mpp)


def _notes_on_cut(seen: Seen, mpp: float) -> tuple[str, ...]:
    places = seen.centres_xy()[seen.cut & seen.own(mpp)]
    return tuple(
        f"the cell at x {x:.0f}, y {y:.0f} reaches beyond its patch: its outline is cut"
        for x, y in places
    )


def _notes_on_crowds(windows: Seen) -> tuple[str, ...]:
    return tuple(
        f"more cells than the network can tell apart round x {x:.0f}, y {y:.0f}"
        for x, y in windows.crowded_xy
    )


def window_px(patch_px: int) -> int:
    """Side of the smaller windows: half a patch, rounded up to the multiple of 32 that the network takes.

    >>> window_px(320), window_px(300)
    (160, 160)
    """
    return math.ceil(patch_px / 64) * 32


def smaller_windows(crowded_xy: np.ndarray, card, mpp: float) -> np.ndarray:
    """Centres of the windows that re-read each of S crowded patches, 3 x 3 overlapping by half: float64 [9 S, 2]."""
    step = card.patch_px / 4 * card.mpp / mpp  # level-0 pixels
    offsets = np.array([(x, y) for y in (-step, 0, step) for x in (-step, 0, step)])
    return (crowded_xy[:, None] + offsets[None]).reshape(-1, 2)


def _audit(job: RegionJob, eye: Eye, candidates: np.ndarray, card) -> tuple[float, float, int]:
    """Area (µm²) that the screen passed over, area of the sample of it, and the cells centred there that it missed.

    The squares looked at are patches, so every cell centred in one counts, cut or not, that no candidate stands for;
    what would be left unidentified on the slide (unsure, or without a nucleus) is no missed cell here either.
    """
    if job.look.exhaustive:
        return 0.0, 0.0, 0
    patch_um = card.patch_px * card.mpp
    centres_xy, audited_um2, passed_over_um2 = screen.audit_centres(
        job.region.core,
        candidates,
        job.look.audit,
        AUDIT_SEED,
        job.slide.mpp,
        patch_um,
        (job.slide.width, job.slide.height),
    )
    seen = eye.see(centres_xy, card.patch_px)
    nucleated = (
        measure(seen.cells, job.slide.mpp, np.zeros(0)).nucleus_fraction >= ANY_NUCLEUS_FRACTION[0]
    )
    found_xy = seen.centres_xy()[
        nucleated & (seen.cells.class_probs.max(1, initial=0) >= card.min_confidence)
    ]
    away_um = np.hypot(*(found_xy[:, None] - candidates[None]).transpose(2, 0, 1)) * job.slide.mpp
    return passed_over_um2, audited_um2, int((away_um > OWN_UM).all(1).sum())


def _device(wanted: str) -> str:
    """ "auto" as "cuda" where this process sees a GPU, else "cpu"; anything else as it is."""
    if wanted != "auto":
        return wanted
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


class _Open(threading.local):
    """This thread's readers: a cluster's worker may run several regions at once, and none may close another's."""

    def __init__(self):
        self.readers: OrderedDict[Slide, SlideReader] = OrderedDict()


_open = _Open()


def _reader(slide: Slide) -> SlideReader:
    """This thread's reader of `slide`, opened once; the one unused for longest is closed beyond `_OPEN_SLIDES`."""
    readers = _open.readers
    if slide not in readers:
        readers[slide] = reopen(slide)
        if len(readers) > _OPEN_SLIDES:
            readers.popitem(last=False)[1].close()
    readers.move_to_end(slide)
    return readers[slide]


def _forget(slide: Slide) -> None:
    reader = _open.readers.pop(slide, None)
    if reader is not None:
        reader.close()
