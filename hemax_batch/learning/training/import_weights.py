"""Weights from elsewhere, checked before they are kept beside others."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ...errors import WeightsError
from ...model import checkpoint
from ..evaluation.model_card import write_card


def import_weights(weights: Path, folder: Path) -> checkpoint.WeightsCard:
    """Copy `sampling_weights` into `folder` with a card (.md) and a line in SHA256SUMS (as `sha256sum -c` reads it).

    The copy is checked, so that what is kept is what was checked. WeightsError if it is damaged, of another format,
    vocabulary or architecture, a control with shuffled labels, or if other weights of that name are there.
    """
    card = checkpoint.reject_shuffled_labels(checkpoint.load(weights)[1])
    target = folder / weights.name
    if target.exists() and (existing := checkpoint.read_card(target)).sha256 != card.sha256:
        raise WeightsError(
            f"{target}: other weights of that name are there (SHA-256 {existing.sha256[:12]}…, new ones "
            f"{card.sha256[:12]}…); rename one of them"
        )
    folder.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    shutil.copyfile(weights, partial)
    if checkpoint.read_card(partial).sha256 != card.sha256:
        partial.unlink()
        raise WeightsError(f"{weights}: changed while it was copied; import it again")
    os.replace(partial, target)
    kept = checkpoint.read_card(target)
    write_card(kept, target.with_suffix(".md"))
    _write_sum(folder / "SHA256SUMS", target.name, kept.sha256)
    return kept


def _write_sum(path: Path, name: str, sha256: str) -> None:
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    lines = [line for line in lines if line.split(maxsplit=1)[-1] != name] + [f"{sha256}  {name}"]
    partial = path.with_name(path.name + ".partial")
    partial.write_text("\n".join(lines) + "\n", "utf-8")
    os.replace(partial, path)
