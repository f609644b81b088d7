"""Reader of the layout of the HemaX authors' training code (LeukoX).

The layout has tensors in `inputs/`, `bounding_boxes/`, `instances/` and `classes/`, one `.pt` file
of the same name in each, and a text file of attribute codes `name.jpg;g c n s;`. The meaning of its
numbers is not published, so `leukox.json` beside the folders must give it:

    {"mpp": 0.1, "classes": ["band_neutrophil", …], "attributes_file": "attributes.txt",
     "attributes": {"granularity": ["agranular", "coarse"], "cytoplasm_colour": […],
     "nucleus_shape": […],
                    "size_vs_rbc": […]}, "val": ["name", …]}

Class k is `classes[k]`. Attribute code k is state k - 2 of its list, in the order above. A state of
null or "" is unknown. Shapes: inputs [3, H, W] (0-255, or 0-1 as float); bounding boxes [n, 4] as
X, Y, W, H in pixels; instances [n, 2, H, W] or [2, H, W], nucleus then cytoplasm; classes [n].
Attributes are given per image, so they are used only for images with one cell.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...bounded_files import read_json
from ...errors import DataError
from ...vocabulary import ATTRIBUTES, CLASS_NAMES
from .examples import CellLabel, Example, parse_mpp
from .tensor_files import load_tensor

FOLDERS = ("inputs", "bounding_boxes", "instances", "classes")
_CODES_FROM = 2


def is_leukox(folder: Path) -> bool:
    """Return whether all four folders exist."""
    return all((folder / name).is_dir() for name in FOLDERS)


def read_leukox(folder: Path) -> list[Example]:
    """Read all images.

    Raises
    ------
    DataError
        The data are malformed. The message names the file and the row.
    """
    description = _read_description(folder)
    codes = _read_attribute_codes(
        folder / description.get("attributes_file", "attributes.txt"), description["attributes"]
    )
    out = []
    for path in sorted((folder / "inputs").glob("*.pt")):
        cells, masked = _cells(folder, path, description, codes.get(path.stem, ()))
        split = "val" if path.stem in description.get("val", ()) else "train"
        mask = str(folder / "instances" / path.name) if masked else ""
        out.append(
            Example(
                str(path),
                description["mpp"],
                description.get("source", "LeukoX"),
                split,
                cells,
                "none",
                mask,
            )
        )
    known = {Path(e.path).stem for e in out}
    for name in (*codes, *description.get("val", ())):
        if name not in known:
            raise DataError(
                f"{folder}: {name!r} has attributes or a split, but no inputs/{name}.pt"
            )
    return out


def _read_description(folder: Path) -> dict[str, Any]:
    """Read and check `leukox.json`."""
    path = folder / "leukox.json"
    if not path.exists():
        raise DataError(
            f"{path}: missing; the layout does not say µm/px nor what its class and attribute numbers mean"
        )
    try:
        description: dict[str, Any] = read_json(path)
        description["mpp"], description["classes"] = (
            parse_mpp(description["mpp"], str(path)),
            list(description["classes"]),
        )
        description.setdefault("attributes", {})
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: needs `mpp` and `classes` ({error!r})") from error
    for name in description["classes"]:
        if name not in CLASS_NAMES:
            raise DataError(f"{path}: unknown class {name!r}; known: {', '.join(CLASS_NAMES)}")
    states = {a.name: a.states for a in ATTRIBUTES}
    for name, states_of_codes in description["attributes"].items():
        for state in states_of_codes:
            if name not in states or (state and state not in states[name]):
                raise DataError(f"{path}: attribute {name!r}, state {state!r}; known: {states}")
    return description


def _read_attribute_codes(
    path: Path, meaning: dict[str, list[str | None]]
) -> dict[str, tuple[tuple[str, str], ...]]:
    """Read the attributes of each image, by its name without suffix."""
    if not path.exists():
        return {}
    out = {}
    for n, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        name, numbers, *_ = (*line.split(";"), "")
        where = f"{path} row {n}"
        if len(numbers.split()) != len(ATTRIBUTES) or not all(v.isdigit() for v in numbers.split()):
            raise DataError(f"{where}: {line!r} is not `name.jpg;g c n s;`")
        attributes: list[tuple[str, str]] = []
        for a, code in zip(ATTRIBUTES, numbers.split(), strict=True):
            states, k = meaning.get(a.name, []), int(code) - _CODES_FROM
            if states and not 0 <= k < len(states):
                raise DataError(
                    f"{where}: {a.name} code {code}; leukox.json knows 2 to {len(states) + 1}"
                )
            if states and (state := states[k]):
                attributes.append((a.name, state))
        out[Path(name.strip()).stem] = tuple(attributes)
    return out


def _cells(
    folder: Path,
    image: Path,
    description: dict[str, Any],
    attributes: tuple[tuple[str, str], ...],
) -> tuple[tuple[CellLabel, ...], bool]:
    """Read the cells of an image, and whether it has masks."""
    height, width = _shape(image)
    boxes_at, masks_at, classes_at = (folder / name / image.name for name in FOLDERS[1:])
    boxes, classes = load_tensor(boxes_at).reshape(-1, 4), load_tensor(classes_at).reshape(-1)
    if len(boxes) != len(classes):
        raise DataError(
            f"{boxes_at}: {len(boxes)} boxes, but {classes_at} has {len(classes)} classes"
        )
    cells = []
    for n, ((x, y, w, h), k) in enumerate(zip(boxes.tolist(), classes.tolist(), strict=True)):
        if not (
            -1 <= x and -1 <= y and w > 0 and h > 0 and x + w <= width + 1 and y + h <= height + 1
        ):
            raise DataError(
                f"{boxes_at} row {n}: box {(x, y, w, h)} does not lie in the image of {width} x {height} px"
            )
        if k != int(k) or not 0 <= k < len(description["classes"]):
            raise DataError(
                f"{classes_at} row {n}: unknown class {k:g}; leukox.json knows 0 to {len(description['classes']) - 1}"
            )
        cells.append(
            CellLabel(
                (x, y, x + w, y + h),
                (description["classes"][int(k)],),
                attributes if len(boxes) == 1 else (),
            )
        )
    if not masks_at.exists():
        return tuple(cells), False
    shape = load_tensor(masks_at).shape
    if shape[-2:] != (height, width) or len(shape) < 3 or shape[-3] != 2:
        raise DataError(
            f"{masks_at}: mask is {shape}, its image {width} x {height} px; expected [n, 2, H, W]"
        )
    return tuple(cells), True


def _shape(image: Path) -> tuple[int, int]:
    """Return the height and width of an image tensor."""
    shape: tuple[int, ...] = np.shape(load_tensor(image))
    if len(shape) != 3 or shape[0] != 3:
        raise DataError(f"{image}: shape {shape}; expected [3, H, W]")
    return shape[1], shape[2]
