"""Weights for tests of the machinery: the real network, untrained, on small patches."""

from __future__ import annotations

import functools
from pathlib import Path


@functools.cache
def tiny_weights(folder: Path, no_cell_bias: float = 2.5, seed: int = 0) -> Path:
    """A checkpoint in `folder`: hemax-s, untrained, at 0.3 µm/px on 128 px patches (38.4 µm, six times faster).

    The higher `no_cell_bias`, the fewer of its 12 queries call what they see a cell.
    """
    import torch

    from hemax_batch.model import checkpoint
    from hemax_batch.model.hemax import build

    torch.manual_seed(seed)
    model = build("hemax-s").eval()
    with torch.no_grad():
        model.class_head.bias[-1] = no_cell_bias
    path = folder / f"tiny-{no_cell_bias}-{seed}.safetensors"
    checkpoint.save(
        model,
        path,
        mpp=0.3,
        patch_px=128,
        temperature=1.0,
        min_confidence=0.1,
        trained={"note": "random"},
        metrics={},
    )
    return path
