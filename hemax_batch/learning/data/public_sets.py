"""Readers of the public sets that the shipped weights are taught by, as the project's data folder lays them out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ...vocabulary import CLASS_NAMES, MATURE_NAMES, NEUTROPHIL_NAMES, WHITE_NAMES
from .examples import CellLabel, Example, read_csv_rows

#: µm/px, from the median red cell (7.3 µm) of each source; Zheng's first set from its neutrophils against the
#: second's.
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
    """WBCAtt's columns (Tsutsui 2023) in the vocabulary's states; empty = not annotated = unknown."""
    found = [
        ("granularity", _GRANULES.get(row["granule_type"])),
        ("cytoplasm_colour", row["cytoplasm_colour"].replace(" ", "_") or None),
        ("nucleus_shape", _NUCLEUS.get(row["nucleus_shape"])),
        ("size_vs_rbc", {"small": "small", "big": "large"}.get(row["cell_size"])),
    ]
    return tuple((k, v) for k, v in found if v)


def read_pbc(folder: Path) -> list[Example]:
    """PBC (Acevedo 2020) with boxes and WBCAtt: one labelled cell near the middle, stained bystanders possible."""
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
    """Matek's marrow crops: one labelled cell in the middle, unlabelled neighbours anywhere; unidentified ones left
    out."""
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
    """Zheng 2018 with expert masks; every fifth picture of each set is kept for evaluation (split "val")."""
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
    """Allowed classes of BCCD fields that hold one white cell: file name -> classes."""
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
    """TXL-PBC: whole fields with boxes of every white cell (0), red cell (1) and platelet (2). White ones need no
    type.

    Its PBC pictures are left out here: `read_pbc` has them, with the same split. BCCD's cells take their type from a
    sibling folder `bccd` where there is one. Raabin-WBC is of normal blood and holds the mature types only (Kouzehkanan et
    al. 2022).
    """
    types, out = _bccd_types(folder.parent / "bccd"), []
    for row in read_csv_rows(folder / "images.csv"):
        if row["source"] == "PBC":
            continue
        path = folder / "images" / row["file"]
        with Image.open(path) as im:
            w, h = im.size
        white, other = [], []
        for line in (folder / "boxes_yolo" / f"{path.stem}.txt").read_text().splitlines():
            kind, cx, cy, bw, bh = line.split()
            cx, cy, bw, bh = float(cx) * w, float(cy) * h, float(bw) * w, float(bh) * h
            if kind != "1":
                (white if kind == "0" else other).append(
                    (cx - bw / 2, cy - bh / 2, cx + bw / 2, cy + bh / 2)
                )
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
    """Chula's fields of red cells only: what is no nucleated cell. Every fifth picture is kept for evaluation."""
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
_APL_NEGATIVES = ("precipitate", "empty")  # values of `excluded` of pictures without a white cell


def read_apl(folder: Path) -> list[Example]:
    """Read the blood of patients with acute leukaemia (Sidhom 2021), split by patient.

    The reader follows the data's README. An excluded row teaches no class, except a
    `smudge_label` row, which shows a smudge. Rows `precipitate` and `empty` are pictures without
    a white cell. All other excluded rows are left out.
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
