"""Import of weights: checks them before they are stored beside others."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ...errors import WeightsError
from ...model import checkpoint
from ..evaluation.model_card import write_card


def import_weights(weights: Path, folder: Path) -> checkpoint.WeightsCard:
    """Copy weights into a folder with a card (.md) and a line in SHA256SUMS.

    The copy is checked, so the stored file is the checked file.

    Raises
    ------
    WeightsError
        The weights are damaged, of another format, vocabulary or architecture, or a control with
        shuffled labels, or other weights of that name exist.
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
    stored = checkpoint.read_card(target)
    write_card(stored, target.with_suffix(".md"))
    _write_sum(folder / "SHA256SUMS", target.name, stored.sha256)
    return stored


def _write_sum(path: Path, name: str, sha256: str) -> None:
    """Add or replace a line of SHA256SUMS."""
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    lines = [line for line in lines if line.split(maxsplit=1)[-1] != name] + [f"{sha256}  {name}"]
    partial = path.with_name(path.name + ".partial")
    partial.write_text("\n".join(lines) + "\n", "utf-8")
    os.replace(partial, path)
