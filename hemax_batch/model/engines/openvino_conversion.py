"""HemaX converted to OpenVINO, and kept in the user's cache folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import warnings
from pathlib import Path

from .. import checkpoint
from ..out_of_distribution import FEATURE_STAGE

_MODEL = Path(__file__).parents[1]
#: Whatever a conversion is made of and by: another source is another conversion.
_SOURCES = (
    _MODEL / "backbone.py",
    _MODEL / "heads.py",
    _MODEL / "hemax.py",
    _MODEL / "transformer.py",
    Path(__file__),
)


def cache_folder() -> Path:
    """Where translated networks are kept: a folder of this user."""
    return (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        / "hemax-batch"
        / "openvino"
    )


def cache_key(sha256: str, size_hw: tuple[int, int], version: str) -> str:
    """The name of a translation: whatever it is made of and by."""
    digest = hashlib.sha256(f"{sha256} {size_hw} {version}".encode())
    for source in _SOURCES:
        digest.update(source.read_bytes())
    return digest.hexdigest()[:32]


def store_network(openvino, network, folder: Path) -> None:
    """Write a translated network aside and put it in place at once; one that another process put there first stays."""
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


def convert_network(card: checkpoint.WeightsCard, size_hw: tuple[int, int]):
    """The network of a card as an openvino.Model: uint8 [1, 3, H, W] to the arrays of `NetworkOutput`, all masks among them."""
    import torch
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    from ..hemax import fold_batch_norms

    shape = (1, 3, *size_hw)
    traced = _inference_outputs(fold_batch_norms(checkpoint.load(card.path)[0]))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the trace is of this size alone, as it should be
        decoder = TorchScriptPythonDecoder(
            torch.jit.trace(traced, torch.zeros(shape, dtype=torch.uint8), check_trace=False)
        )
    frontend = FrontEndManager().load_by_framework("pytorch")
    read = frontend.load(decoder)
    network = frontend.convert(read)
    network.reshape(list(shape))
    return network


def _inference_outputs(model):
    """A HemaX that answers with what is asked of it and nothing else."""
    from torch import nn

    class InferenceOutputs(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, pixels):
            feature_maps = []
            hook = self.model.backbone.register_forward_hook(
                lambda _module, _arguments, maps: feature_maps.append(maps[FEATURE_STAGE])
            )
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
