"""Conversion of HemaX to OpenVINO, with a cache in the user's folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import warnings
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .. import checkpoint
from ..out_of_distribution import FEATURE_STAGE

if TYPE_CHECKING:
    import openvino
    from torch import nn

    from ..hemax import HemaX

_MODEL = Path(__file__).parents[1]
#: Source files that a conversion depends on. A change in one makes a new cache entry.
_SOURCES = (
    _MODEL / "backbone.py",
    _MODEL / "feature_pyramid.py",
    _MODEL / "heads.py",
    _MODEL / "hemax.py",
    _MODEL / "transformer.py",
    Path(__file__),
)


def cache_folder() -> Path:
    """Return the user's folder of converted networks."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "hemax-batch" / "openvino"


def cache_key(sha256: str, size_hw: tuple[int, int], version: str) -> str:
    """Return the name of a cache entry.

    Parameters
    ----------
    sha256
        Hash of the weights.
    size_hw
        Height and width of a patch in pixels.
    version
        Version of OpenVINO.
    """
    digest = hashlib.sha256(f"{sha256} {size_hw} {version}".encode())
    for source in _SOURCES:
        digest.update(source.read_bytes())
    return digest.hexdigest()[:32]


def store_network(openvino: ModuleType, network: openvino.Model, folder: Path) -> None:
    """Store a converted network in `folder`.

    The files are written to a temporary folder, which is then renamed. If another process stored
    the network first, its folder stays.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix="making-", dir=folder.parent))
    try:
        openvino.save_model(network, partial / "network.xml", compress_to_fp16=False)
        partial.rename(folder)
    except OSError:
        if not (folder / "network.xml").exists():
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def convert_network(card: checkpoint.WeightsCard, size_hw: tuple[int, int]) -> openvino.Model:
    """Convert the network of a card for patches of one size.

    The input is uint8 [1, 3, H, W]. The outputs are the arrays of `NetworkOutput` without
    `confident`; `mask_logits` holds the masks of all queries.
    """
    import torch
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    from ..hemax import fold_batch_norms

    shape = (1, 3, *size_hw)
    module = _inference_outputs(fold_batch_norms(checkpoint.load(card.path)[0]))
    trace: Any = torch.jit.trace
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The trace warns that it holds for this size only.
        traced = trace(module, torch.zeros(shape, dtype=torch.uint8), check_trace=False)
        decoder = TorchScriptPythonDecoder(traced)
    frontend = FrontEndManager().load_by_framework("pytorch")
    network = frontend.convert(frontend.load(decoder))
    network.reshape(list(shape))
    return network


def _inference_outputs(model: HemaX) -> nn.Module:
    """Wrap a HemaX in a module that returns only what inference uses."""
    from torch import Tensor, nn

    class InferenceOutputs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
            feature_maps: list[Tensor] = []

            def record(_module: nn.Module, _arguments: object, maps: list[Tensor]) -> None:
                feature_maps.append(maps[FEATURE_STAGE])

            hook = self.model.backbone.register_forward_hook(record)
            output = self.model(pixels)
            hook.remove()
            return (
                output.class_logits[-1],
                output.attribute_logits[-1],
                output.boxes_cxcywh[-1],
                output.mask_logits,
                feature_maps[0],
            )

    return InferenceOutputs().eval()
