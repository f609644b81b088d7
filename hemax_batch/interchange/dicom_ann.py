"""Write `annotations.dcm`: outlines as DICOM Microscopy Bulk Simple Annotations, for slides that are DICOM.

Each class has one group of polygons for its cells and one for their nuclei. Coordinates are pixels of the total
pixel matrix of the finest level. Cells carry their diameter and confidence. UIDs follow from the results,
so the same results give the same object.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from .. import __version__
from ..review.load_results import LoadedCell, load_cells, load_outlines, load_record, result_sha256
from ..review.outlines import Outlines, Ring
from ..slides.formats.dicom_series import series_uid
from ..vocabulary import CLAIM
from .export import NotApplicable

_NAMESPACE = uuid.UUID("0f0b5a4e-52a1-5b6c-8a3e-1f7c9b1d2e3f")  # ours
_MICROMETRE = hd.sr.CodedConcept("um", "UCUM", "micrometer")
#: Elements that the annotation must copy from the slide (type 1), and elements that may be empty (type 2).
#: Slides whose patient was removed often lack the latter.
_NEEDED = (
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPClassUID",
    "SOPInstanceUID",
    "FrameOfReferenceUID",
)
_MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
_ONE = hd.sr.CodedConcept("1", "UCUM", "no units")


def write(path: Path, folder: Path) -> None:
    """Write the annotations of the slide's results in `folder`.

    NotApplicable is raised if the slide is not DICOM, is gone, or holds no cell.
    Unreadable results raise ResultsError.
    """
    record = load_record(folder)
    source = _finest_level(Path(record.path), record.width, record.height)
    cells = load_cells(folder, record)
    outlines = load_outlines(folder, len(cells))
    sha256 = result_sha256(folder)
    groups = _groups(cells, outlines, sha256)
    if not groups:
        raise NotApplicable("it holds no cell")
    made = hd.ann.MicroscopyBulkSimpleAnnotations(
        source_images=[source],
        annotation_coordinate_type=hd.ann.AnnotationCoordinateTypeValues.SCOORD,
        annotation_groups=groups,
        series_instance_uid=_uid(sha256, "series"),
        series_number=1,
        sop_instance_uid=_uid(sha256, "instance"),
        instance_number=1,
        manufacturer="hemax-batch",
        manufacturer_model_name="HemaX",
        software_versions=__version__,
        device_serial_number=record.weights_sha256[:16],
        content_description="pre-classification for review; research use only",
        content_label="WHITE_CELLS",
    )
    # The dates are those of the slide, so that the same results give the same object.
    day, time = str(source.get("StudyDate") or "19000101"), str(source.get("StudyTime") or "000000")
    for keyword in ("InstanceCreationDate", "ContentDate", "SeriesDate"):
        if keyword in made:
            setattr(made, keyword, day)
    for keyword in ("InstanceCreationTime", "ContentTime", "SeriesTime"):
        if keyword in made:
            setattr(made, keyword, time)
    for equipment in made.get("ContributingEquipmentSequence", []):
        equipment.ContributionDateTime = day + time
    made.save_as(path)


def _finest_level(path: Path, width: int, height: int) -> pydicom.Dataset:
    """Return the header of the instance whose total pixel matrix is the slide's level 0."""
    series = series_uid(path)
    if series is None:
        raise NotApplicable(
            f"{path} is not a DICOM slide" if path.exists() else f"{path} is not there any more"
        )
    for file in sorted(p for p in path.parent.iterdir() if series_uid(p) == series):
        header = pydicom.dcmread(file, stop_before_pixels=True)
        if (header.get("TotalPixelMatrixColumns"), header.get("TotalPixelMatrixRows")) == (
            width,
            height,
        ):
            return _completed(header, file)
    raise NotApplicable(
        f"no file of the series beside {path} has a total pixel matrix of {width} x {height}"
    )


def _completed(header: pydicom.Dataset, file: Path) -> pydicom.Dataset:
    """Add the elements that may be empty. A missing element of the others raises NotApplicable."""
    if missing := [keyword for keyword in _NEEDED if not header.get(keyword)]:
        raise NotApplicable(f"{file} has no {', '.join(missing)}, which annotations must refer to")
    for keyword in _MAY_BE_EMPTY:
        if keyword not in header:
            setattr(header, keyword, "")
    return header


def _groups(
    cells: tuple[LoadedCell, ...], outlines: dict[int, Outlines], sha256: str
) -> list[hd.ann.AnnotationGroup]:
    """Return the groups: per class the cells, then their nuclei. A cell of several pieces is its largest piece."""
    by_class: dict[str, list[LoadedCell]] = defaultdict(list)
    for cell in cells:
        if cell.cell_id in outlines and outlines[cell.cell_id].cell:
            by_class[cell.class_name].append(cell)
    groups: list[hd.ann.AnnotationGroup] = []
    for name in sorted(by_class):
        members = by_class[name]
        figures = [
            hd.ann.Measurements(
                codes.SCT.Diameter, _column([c.diameter_um for c in members]), _MICROMETRE
            ),
            hd.ann.Measurements(
                codes.DCM.Probability, _column([c.confidence for c in members]), _ONE
            ),
        ]
        rings = [_largest(outlines[c.cell_id].cell) for c in members]
        groups.append(_group(len(groups) + 1, name, codes.SCT.Cell, rings, figures, sha256))
        nuclei = [
            _largest(outlines[c.cell_id].nucleus) for c in members if outlines[c.cell_id].nucleus
        ]
        if nuclei:
            groups.append(
                _group(len(groups) + 1, f"{name} nucleus", codes.SCT.Nucleus, nuclei, None, sha256)
            )
    return groups


def _group(
    number: int,
    label: str,
    what: Code,
    rings: list[np.ndarray],
    figures: list[hd.ann.Measurements] | None,
    sha256: str,
) -> hd.ann.AnnotationGroup:
    return hd.ann.AnnotationGroup(
        number=number,
        uid=_uid(sha256, label),
        label=label,
        annotated_property_category=codes.SCT.AnatomicalStructure,
        annotated_property_type=what,
        graphic_type=hd.ann.GraphicTypeValues.POLYGON,
        graphic_data=rings,
        algorithm_type=hd.ann.AnnotationGroupGenerationTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            "HemaX", codes.cid7162.ArtificialIntelligence, __version__
        ),
        measurements=figures,
        description=CLAIM,
    )


def _column(values: list[float | None]) -> np.ndarray:
    return np.array([np.nan if v is None else v for v in values], np.float32)


def _largest(rings: tuple[Ring, ...]) -> np.ndarray:
    """Return the largest ring as [V, 2] float32. Its last point, which repeats the first, is dropped."""
    arrays = [np.array(ring[:-1], np.float64) for ring in rings]
    return max(arrays, key=_area).astype(np.float32)


def _area(ring: np.ndarray) -> float:
    """Return the area by the shoelace formula."""
    x, y = ring.T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def _uid(sha256: str, what: str) -> str:
    """Make a UID of the root 2.25 (DICOM PS3.5 B.2) from the results' hash."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, f'{sha256}/{what}').int}"
