"""Weights from elsewhere, checked before they are kept beside others."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ..errors import WeightsError
from ..model import checkpoint
from .card import write_card


def keep_weights(weights: Path, folder: Path) -> checkpoint.WeightsCard:
    """Copy `weights` into `folder` with a card (.md) and a line in SHA256SUMS (as `sha256sum -c` reads it).

    The copy is checked, so that what is kept is what was checked. WeightsError if it is damaged, of another format,
    vocabulary or architecture, a control with shuffled labels, or if other weights of that name are there.
    """
    card = checkpoint.refuse_shuffled(checkpoint.load(weights)[1])
    target = folder / weights.name
    if target.exists() and (there := checkpoint.read_card(target)).sha256 != card.sha256:
        raise WeightsError(
            f"{target}: other weights of that name are there (SHA-256 {there.sha256[:12]}…, new ones "
            f"{card.sha256[:12]}…); rename one of them"
        )
    folder.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(target.name + ".partial")
    shutil.copyfile(weights, aside)
    if checkpoint.read_card(aside).sha256 != card.sha256:
        aside.unlink()
        raise WeightsError(f"{weights}: changed while it was copied; import it again")
    os.replace(aside, target)
    kept = checkpoint.read_card(target)
    write_card(kept, target.with_suffix(".md"))
    _write_sum(folder / "SHA256SUMS", target.name, kept.sha256)
    return kept


def _write_sum(path: Path, name: str, sha256: str) -> None:
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    lines = [line for line in lines if line.split(maxsplit=1)[-1] != name] + [f"{sha256}  {name}"]
    aside = path.with_name(path.name + ".partial")
    aside.write_text("\n".join(lines) + "\n", "utf-8")
    os.replace(aside, path)
