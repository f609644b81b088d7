"""Pictures and masks kept as `.pt` tensors, read without running anything in them."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np

from ...errors import DataError


def load_tensor(path: Path) -> np.ndarray:
    """A tensor file as an array. DataError if it is missing, damaged or holds anything else than a tensor."""
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise DataError(
            f"{path}: cannot be read as a tensor ({str(error).splitlines()[0]})"
        ) from error
    if not isinstance(found, torch.Tensor):
        raise DataError(f"{path}: holds a {type(found).__name__}, not a tensor")
    return found.float().numpy()


def load_rgb_tensor(path: Path) -> np.ndarray:
    """A picture [3, H, W], 0-255 or 0-1, as uint8 [H, W, 3]."""
    values = load_tensor(path)
    if values.max(initial=0) <= 1:
        values = values * 255
    return np.ascontiguousarray(values.round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def load_mask_tensor(path: Path) -> np.ndarray:
    """Instances [n, 2, H, W] or [2, H, W] (nucleus, cytoplasm) as one map, uint8 [H, W]: 0 outside, 1 cytoplasm, 2
    nucleus."""
    values = load_tensor(path)
    parts = values.reshape(-1, *values.shape[-3:]).max(0) > 0.5
    return np.where(parts[0], 2, parts[1]).astype(np.uint8)
