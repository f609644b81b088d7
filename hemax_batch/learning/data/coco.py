"""Reader of COCO instance JSON, with a scale that COCO itself lacks.

A data set is a folder with `*.json` (in it or in `annotations/`). The images lie beside it, in
`images/` or in a folder named after the split. Beyond COCO, the JSON must give `mpp` (µm/px) and
may give `source`, `split` and `bystanders`, per image or once under `info`. Without `split` a file
with "val" or "test" in its name is of split "val".

A segmentation (polygons or RLE) outlines the whole cell. It is checked, and gives the box if `bbox`
is missing. It gives no mask, because it does not separate nucleus and cytoplasm.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...bounded_files import MAX_DATA_BYTES, read_json
from ...errors import DataError
from ...vocabulary import CLASS_NAMES, NEUTROPHIL_NAMES, WHITE_NAMES
from .examples import BYSTANDERS, CellLabel, Example

#: Common names and the classes that they allow. "ignore" is neither a cell nor background.
_OTHER_NAMES = {
    "neutrophil": NEUTROPHIL_NAMES,
    "wbc": WHITE_NAMES, "white_blood_cell": WHITE_NAMES, "leukocyte": WHITE_NAMES,
    "nucleated_red_cell": ("erythroblast",), "nrbc": ("erythroblast",), "platelets": ("platelet",),
    "rbc": ("ignore",), "red_blood_cell": ("ignore",), "ignore": ("ignore",), "artefact": ("ignore",),
}  # fmt: skip


Box = tuple[float, float, float, float]


def coco_files(folder: Path) -> list[Path]:
    """List the JSON files with COCO instances in `folder` and its `annotations/`."""
    found = []
    for path in sorted([*folder.glob("*.json"), *folder.glob("annotations/*.json")]):
        try:
            data = read_json(path, MAX_DATA_BYTES)
        except ValueError as error:
            raise DataError(f"{path}: not JSON ({error})") from error
        if isinstance(data, dict) and {"images", "annotations", "categories"} <= data.keys():
            found.append(path)
    return found


def read_coco(folder: Path) -> list[Example]:
    """Read all COCO files of a folder.

    Raises
    ------
    DataError
        The data are malformed. The message names the file and the row, counted from 0.
    """
    return [example for path in coco_files(folder) for example in _read(path, folder)]


def _read(path: Path, folder: Path) -> list[Example]:
    data = read_json(path, MAX_DATA_BYTES)
    classes = {c["id"]: _allowed(c["name"]) for c in data["categories"]}
    names = {c["id"]: c["name"] for c in data["categories"]}
    images: dict[Any, dict[str, Any]] = {}
    sizes: dict[Any, tuple[int, int]] = {}
    cells: dict[Any, list[CellLabel]] = {}
    ignored: dict[Any, list[Box]] = {}
    for n, image in enumerate(data["images"]):
        found, sizes[image["id"]] = _image(
            image, data.get("info") or {}, path, folder, f"{path} images[{n}]"
        )
        images[image["id"]], cells[image["id"]], ignored[image["id"]] = found, [], []
    for n, row in enumerate(data["annotations"]):
        where = f"{path} annotations[{n}]"
        key = row.get("image_id")
        if key not in images:
            raise DataError(f"{where}: image_id {key!r} is not among the images")
        allowed = classes.get(row.get("category_id"))
        if not allowed:
            name = names.get(row.get("category_id"), row.get("category_id"))
            raise DataError(
                f"{where}: unknown class {name!r}; known: {', '.join((*CLASS_NAMES, *_OTHER_NAMES))}"
            )
        box = _box(row, sizes[key], where)
        if allowed == ("ignore",) or row.get("iscrowd"):
            ignored[key].append(box)
        else:
            cells[key].append(CellLabel(box, allowed))
    return [
        Example(
            e["path"],
            e["mpp"],
            e["source"],
            e["split"],
            tuple(cells[k]),
            e["bystanders"],
            ignored=tuple(ignored[k]),
        )
        for k, e in images.items()
    ]


def _allowed(name: str) -> tuple[str, ...]:
    """Return the classes that a category's name allows; () if it is unknown."""
    plain = name.strip().lower().replace(" ", "_").replace("-", "_")
    return (plain,) if plain in CLASS_NAMES else _OTHER_NAMES.get(plain, ())


def _image(
    image: dict[str, Any], info: dict[str, Any], path: Path, folder: Path, where: str
) -> tuple[dict[str, Any], tuple[int, int]]:
    """Return an image's facts and its size (width, height)."""
    given = {k: image.get(k, info.get(k)) for k in ("mpp", "source", "split", "bystanders")}
    split = given["split"] or (
        "val" if any(word in path.stem.lower() for word in ("val", "test")) else "train"
    )
    name = image.get("file_name", "")
    places = [p / name for p in (folder / "images", folder / split, folder)]
    file = next((p for p in places if name and p.is_file()), None)
    if file is None:
        raise DataError(
            f"{where}: image {name!r} does not exist in {places[0].parent}, {places[1].parent} or {folder}"
        )
    if not isinstance(given["mpp"], int | float) or not given["mpp"] > 0:
        raise DataError(
            f"{where}: mpp is {given['mpp']!r}; COCO knows no scale: write µm/px as `mpp` of the image or of `info`"
        )
    bystanders = given["bystanders"] or "none"
    if bystanders not in BYSTANDERS:
        raise DataError(
            f"{where}: bystanders {bystanders!r}; expected one of {', '.join(BYSTANDERS)}"
        )
    with Image.open(file) as im:
        size = im.size
    stated_size = (image.get("width", size[0]), image.get("height", size[1]))
    if stated_size != size:
        raise DataError(
            f"{where}: says {stated_size[0]} x {stated_size[1]} px, {file.name} has {size[0]} x {size[1]}"
        )
    facts = {
        "path": str(file),
        "mpp": float(given["mpp"]),
        "source": given["source"] or folder.name,
        "split": split,
    }
    return facts | {"bystanders": bystanders}, size


def _box(row: dict[str, Any], size: tuple[int, int], where: str) -> Box:
    """Return the box from `bbox` (x, y, w, h), or else from the segmentation."""
    outline = _outline_box(row.get("segmentation"), size, where)
    given = row.get("bbox")
    if given:
        if len(given) != 4 or not all(isinstance(v, int | float) for v in given):
            raise DataError(f"{where}: bbox {given!r} is not x, y, w, h")
        x, y, w, h = given
        box = (float(x), float(y), float(x + w), float(y + h))
    elif outline:
        box = outline
    else:
        raise DataError(f"{where}: neither bbox nor segmentation")
    x0, y0, x1, y1 = box
    if not (-1 <= x0 < x1 <= size[0] + 1 and -1 <= y0 < y1 <= size[1] + 1):
        raise DataError(f"{where}: box {box} does not lie in the image of {size[0]} x {size[1]} px")
    return box


def _outline_box(outline: Any, size: tuple[int, int], where: str) -> Box | None:
    """Return the extent of polygons [[x, y, …], …] or of an RLE {size: [h, w], counts}."""
    if not outline:
        return None
    if isinstance(outline, dict):
        return _rle_box(outline, size, where)
    try:
        points = np.concatenate([np.asarray(part, float).reshape(-1, 2) for part in outline])
    except (TypeError, ValueError):
        raise DataError(f"{where}: segmentation is not a list of polygons x, y, x, y …") from None
    low, high = points.min(0), points.max(0)
    if (low < -1).any() or (high > np.array(size) + 1).any():
        raise DataError(
            f"{where}: segmentation does not lie in the image of {size[0]} x {size[1]} px"
        )
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _rle_box(rle: dict[str, Any], size: tuple[int, int], where: str) -> Box:
    """Return the extent of an RLE mask."""
    try:
        from pycocotools import mask
    except ImportError:
        raise DataError(
            f"{where}: an RLE mask needs pycocotools, which is not installed here: "
            "pip install 'hemax-batch[train]'"
        ) from None

    height, width = rle.get("size") or (0, 0)
    if (width, height) != size:
        raise DataError(f"{where}: mask is ({width}, {height}) px, its image {size} px")
    counts = rle.get("counts")
    if isinstance(counts, list):
        if sum(counts) != width * height:
            raise DataError(f"{where}: the mask's runs cover {sum(counts)} of {width * height} px")
        rle = mask.frPyObjects(rle, height, width)
    x, y, w, h = mask.toBbox(rle).tolist()
    return x, y, x + w, y + h
