"""Readers of the public data sets that the shipped weights are trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ...vocabulary import CLASS_NAMES, MATURE_NAMES, NEUTROPHIL_NAMES, WHITE_NAMES
from .examples import CellLabel, Example, read_csv_rows

#: µm/px of each source, from its median red cell (7.3 µm). Zheng's first set is scaled by its
#: neutrophils relative to the second set's.
MPP = {
    "PBC": 0.10,
    "marrow": 0.10,
    "Raabin-WBC": 0.06,
    "BCCD": 0.08,
    "BCDD": 0.124,
    "zheng1": 0.18,
    "zheng2": 0.10,
    "chula": 0.20,
    "apl": 0.10,
}

Box = tuple[float, float, float, float]

_NUCLEUS = {
    "unsegmented-round": "round",
    "unsegmented-indented": "indented",
    "unsegmented-band": "band",
    "segmented-bilobed": "bilobed",
    "segmented-multilobed": "multilobed",
    "irregular": "irregular",
}
_GRANULES = {"nil": "agranular", "small": "fine", "round": "coarse", "coarse": "coarse"}


def _wbcatt(row: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """Translate WBCAtt's columns (Tsutsui et al. 2023) to vocabulary states; empty is unknown."""
    states = [
        ("granularity", _GRANULES.get(row["granule_type"])),
        ("cytoplasm_colour", row["cytoplasm_colour"].replace(" ", "_") or None),
        ("nucleus_shape", _NUCLEUS.get(row["nucleus_shape"])),
        ("size_vs_rbc", {"small": "small", "big": "large"}.get(row["cell_size"])),
    ]
    return tuple((k, v) for k, v in states if v)


def read_pbc(folder: Path) -> list[Example]:
    """Read PBC (Acevedo 2020) with boxes and WBCAtt.

    One cell near the centre is labelled. Unlabelled stained cells are possible.
    """
    out = []
    for row in read_csv_rows(folder / "labels.csv"):
        box = None
        path = folder / "images" / row["file"]
        if row["box_cx"]:
            with Image.open(path) as im:
                w, h = im.size
            cx, cy, bw, bh = (float(row[k]) for k in ("box_cx", "box_cy", "box_w", "box_h"))
            box = ((cx - bw / 2) * w, (cy - bh / 2) * h, (cx + bw / 2) * w, (cy + bh / 2) * h)
        cell = CellLabel(
            box, (row["class"],), _wbcatt(row), nc_class=row["nuclear_cytoplasmic_ratio"]
        )
        out.append(Example(str(path), MPP["PBC"], "PBC", row["split"], (cell,), "stained"))
    return out


def read_marrow(folder: Path) -> list[Example]:
    """Read Matek's marrow crops; unidentified cells are left out.

    One cell in the centre is labelled. Unlabelled neighbours may lie anywhere.
    """
    return [
        Example(
            str(folder / "images" / r["file"]),
            MPP["marrow"],
            "marrow",
            r["split"],
            (CellLabel(None, (r["class"],)),),
            "anywhere",
        )
        for r in read_csv_rows(folder / "labels.csv")
        if r["class"] in CLASS_NAMES
    ]


def read_zheng(folder: Path) -> list[Example]:
    """Read Zheng 2018 with expert masks; every fifth image of each set is of split "val"."""
    out = []
    for row in read_csv_rows(folder / "labels.csv"):
        mask_path = folder / "masks" / row["file"]
        ys, xs = np.nonzero(np.asarray(Image.open(mask_path)))
        box = (float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1))
        allowed = NEUTROPHIL_NAMES if row["class"] == "neutrophil" else (row["class"],)
        split = "val" if int(Path(row["file"]).stem.split("_")[1]) % 5 == 0 else "train"
        source = f"zheng{row['dataset']}"
        out.append(
            Example(
                str(folder / "images" / row["file"]),
                MPP[source],
                source,
                split,
                (CellLabel(box, allowed),),
                "stained",
                str(mask_path),
            )
        )
    return out


def _bccd_types(folder: Path) -> dict[str, tuple[str, ...]]:
    """Return the allowed classes of BCCD fields with one white cell, by file name."""
    names = {
        "NEUTROPHIL": NEUTROPHIL_NAMES,
        "EOSINOPHIL": ("eosinophil",),
        "BASOPHIL": ("basophil",),
        "MONOCYTE": ("monocyte",),
        "LYMPHOCYTE": ("lymphocyte",),
    }
    if not folder.exists():
        return {}
    return {
        r["file"]: names[r["wbc_types"]]
        for r in read_csv_rows(folder / "wbc_types.csv")
        if r["wbc_types"] in names
    }


def read_txl(folder: Path) -> list[Example]:
    """Read TXL-PBC: whole fields with boxes of white cells (0), red cells (1) and platelets (2).

    Its PBC images are left out, because `read_pbc` reads them with the same split. BCCD's cells
    take their class from a sibling folder `bccd` if there is one. Raabin-WBC is of normal blood and
    holds mature classes only (Kouzehkanan et al. 2022).
    """
    types, out = _bccd_types(folder.parent / "bccd"), []
    for row in read_csv_rows(folder / "images.csv"):
        if row["source"] == "PBC":
            continue
        path = folder / "images" / row["file"]
        with Image.open(path) as im:
            w, h = im.size
        white: list[Box] = []
        other: list[Box] = []
        for line in (folder / "boxes_yolo" / f"{path.stem}.txt").read_text().splitlines():
            kind, *numbers = line.split()
            x, y, bw, bh = (float(v) * side for v, side in zip(numbers, (w, h, w, h), strict=True))
            box = (x - bw / 2, y - bh / 2, x + bw / 2, y + bh / 2)
            if kind != "1":
                (white if kind == "0" else other).append(box)
        unknown = MATURE_NAMES if row["source"] == "Raabin-WBC" else WHITE_NAMES
        allowed = types.get(row["original"], unknown) if len(white) == 1 else unknown
        cells = tuple(CellLabel(b, allowed) for b in white)
        out.append(
            Example(
                str(path),
                MPP[row["source"]],
                row["source"],
                row["split"],
                cells,
                "none",
                ignored=tuple(other),
                original=row["original"],
            )
        )
    return out


def read_chula(folder: Path) -> list[Example]:
    """Read Chula's fields of red cells, without nucleated cells; every fifth is of split "val"."""
    return [
        Example(str(path), MPP["chula"], "chula", "val" if i % 5 == 0 else "train", ())
        for i, path in enumerate(sorted((folder / "images").iterdir()))
    ]


#: Classes that a label of `apl/` leaves open. A promonocyte counts as a blast in leukaemia.
_APL_ALLOWED = {
    "promonocyte": ("blast", "monocyte"),
    "prolymphocyte": ("lymphocyte", "variant_lymphocyte"),
    "giant_platelet": ("platelet",),
}
#: Values of `excluded` of images without a white cell.
_APL_NEGATIVES = ("precipitate", "empty")


def read_apl(folder: Path) -> list[Example]:
    """Read the blood of patients with acute leukaemia (Sidhom 2021), split by patient.

    The reader follows the data set's README. An excluded row gives no class, except that a
    `smudge_label` row shows a smudge cell. Rows `precipitate` and `empty` are images without a
    white cell. All other excluded rows are left out.
    """
    examples = []
    for row in read_csv_rows(folder / "labels.csv"):
        reason, name = row["excluded"], row["class"]
        cells: tuple[CellLabel, ...]
        if reason in _APL_NEGATIVES:
            cells = ()
        elif reason in ("", "smudge_label"):
            allowed = ("smudge",) if reason else _APL_ALLOWED.get(name, (name,))
            if not set(allowed) <= set(CLASS_NAMES):
                continue
            cells = (CellLabel(None, allowed),)
        else:
            continue
        path = str(folder / "images" / row["file"])
        examples.append(
            Example(path, MPP["apl"], "apl", row["split"], cells, "stained", patient=row["patient"])
        )
    return examples


READERS = {
    "pbc": read_pbc,
    "marrow": read_marrow,
    "zheng": read_zheng,
    "txl": read_txl,
    "chula": read_chula,
    "apl": read_apl,
}
