"""Images and masks stored as `.pt` tensors; reading them executes no code."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np

from ...errors import DataError


def load_tensor(path: Path) -> np.ndarray:
    """Read a tensor file as an array.

    Raises
    ------
    DataError
        The file is missing, damaged or holds something else.
    """
    import torch

    try:
        tensor = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise DataError(
            f"{path}: cannot be read as a tensor ({str(error).splitlines()[0]})"
        ) from error
    if not isinstance(tensor, torch.Tensor):
        raise DataError(f"{path}: holds a {type(tensor).__name__}, not a tensor")
    array: np.ndarray = tensor.float().numpy()
    return array


def load_rgb_tensor(path: Path) -> np.ndarray:
    """Read an image [3, H, W] in 0-255 or 0-1 as uint8 [H, W, 3]."""
    values = load_tensor(path)
    if values.max(initial=0) <= 1:
        values = values * 255
    return np.ascontiguousarray(values.round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def load_mask_tensor(path: Path) -> np.ndarray:
    """Read masks [n, 2, H, W] or [2, H, W] (nucleus, cytoplasm) as one map uint8 [H, W].

    0 is outside, 1 cytoplasm, 2 nucleus.
    """
    values = load_tensor(path)
    parts = values.reshape(-1, *values.shape[-3:]).max(0) > 0.5
    return np.where(parts[0], 2, parts[1]).astype(np.uint8)
