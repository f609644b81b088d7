"""HemaX in OpenVINO, for servers without a GPU: half again as fast as PyTorch on one core, and loaded in a tenth of the time.

The network is translated once per weights, patch size, OpenVINO version and source of the network, which takes PyTorch and
some seconds, and kept in the user's cache folder; from then on a worker loads it without PyTorch. In float32, one
thread: it agrees with PyTorch to about 1e-4 of a logit (bfloat16 is faster still, and finds other cells).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import threading
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ..errors import EngineError
from . import checkpoint
from .answers import MIN_SCORE, Answer, softmax
from .familiarity import STAGE

#: Not pinned: each worker process would pin its thread to the same core.
_ONE_THREAD_EXACT = {
    "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False, "INFERENCE_PRECISION_HINT": "f32",
}  # fmt: skip
_SOURCES = ("backbone.py", "hemax.py", "transformer.py", "openvino_network.py")


class OpenVinoNetwork:
    """The network of a card. Call it with pixels uint8 [B, 3, H, W]; it goes patch by patch. Threads may share it."""

    device = "cpu"

    def __init__(self, card: checkpoint.WeightsCard):
        self._openvino, self._card = _openvino(), card
        self._core = self._openvino.Core()
        self._compiled: dict[tuple[int, int], object] = {}
        self._lock, self._requests = threading.Lock(), threading.local()

    def __call__(self, pixels: np.ndarray) -> Answer:
        """Each patch by itself, so that what is said of it depends on nothing else."""
        said = [self._one(np.ascontiguousarray(patch[None])) for patch in pixels]
        return Answer(*(np.concatenate(parts) for parts in zip(*said, strict=True)))

    def _one(self, patch: np.ndarray) -> tuple[np.ndarray, ...]:
        """As the fields of Answer, of one patch [1, 3, H, W]."""
        request = self._request(patch.shape[2:])
        request.infer({0: patch})
        logits, attributes, boxes, masks, looks = (
            output.data.copy() for output in request.output_tensors
        )
        sure = softmax(logits)[..., -1] <= 1 - MIN_SCORE
        return logits, attributes, boxes, sure, masks[sure], looks

    def _request(self, size_hw: tuple[int, int]):
        """This thread's way to ask the network for patches of that size."""
        mine = self._requests.__dict__
        if size_hw not in mine:
            with self._lock:
                if size_hw not in self._compiled:
                    self._compiled[size_hw] = self._compile(size_hw)
            mine[size_hw] = self._compiled[size_hw].create_infer_request()
        return mine[size_hw]

    def _compile(self, size_hw: tuple[int, int]):
        """The network for patches of that size, from the cache; translated and put there if it is not. Where there can
        be no cache it is translated each time."""
        try:
            folder = cache_folder() / _key(self._card.sha256, size_hw, self._openvino.__version__)
            options = _ONE_THREAD_EXACT | {"CACHE_DIR": str(folder)}
            if not (folder / "network.xml").exists():
                _keep(self._openvino, translate(self._card, size_hw), folder)
            return self._core.compile_model(str(folder / "network.xml"), "CPU", options)
        except (
            OSError,
            RuntimeError,
        ):  # OpenVINO's own errors of files are RuntimeErrors, and so is Python's of a user without a home
            return self._core.compile_model(
                translate(self._card, size_hw), "CPU", _ONE_THREAD_EXACT
            )


def check_engine(engine: str) -> None:
    """Raise EngineError where what the network is to run in is not installed, without loading it."""
    if engine == "openvino" and find_spec("openvino") is None:
        raise EngineError(
            "--engine openvino: the package openvino is not installed here; pip install 'hemax-batch[openvino]', or use "
            "--engine torch"
        )


def _openvino():
    """The package, kept from reporting its use to its makers, which importing it alone would do."""
    check_engine("openvino")
    sys.modules.setdefault("openvino_telemetry", None)
    import openvino

    return openvino


def cache_folder() -> Path:
    """Where translated networks are kept: a folder of this user."""
    return (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        / "hemax-batch"
        / "openvino"
    )


def _key(sha256: str, size_hw: tuple[int, int], version: str) -> str:
    """The name of a translation: whatever it is made of and by."""
    digest = hashlib.sha256(f"{sha256} {size_hw} {version}".encode())
    for name in _SOURCES:
        digest.update(Path(__file__).with_name(name).read_bytes())
    return digest.hexdigest()[:32]


def _keep(openvino, network, folder: Path) -> None:
    """Write a translated network aside and put it in place at once; one that another process put there first stays."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix="making-", dir=folder.parent))
    try:
        openvino.save_model(network, aside / "network.xml", compress_to_fp16=False)
        aside.rename(folder)
    except OSError:
        if not (folder / "network.xml").exists():
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def translate(card: checkpoint.WeightsCard, size_hw: tuple[int, int]):
    """The network of a card as an openvino.Model: uint8 [1, 3, H, W] to the arrays of `Answer`, all masks among them."""
    import torch
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    from .hemax import fold_norms

    shape = (1, 3, *size_hw)
    asked = _asked(fold_norms(checkpoint.load(card.path)[0]))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the trace is of this size alone, as it should be
        decoder = TorchScriptPythonDecoder(
            torch.jit.trace(asked, torch.zeros(shape, dtype=torch.uint8), check_trace=False)
        )
    frontend = FrontEndManager().load_by_framework("pytorch")
    read = frontend.load(decoder)
    network = frontend.convert(read)
    network.reshape(list(shape))
    return network


def _asked(model):
    """A HemaX that answers with what is asked of it and nothing else."""
    from torch import nn

    class Asked(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, pixels):
            passed = []
            hook = self.model.backbone.register_forward_hook(
                lambda _module, _arguments, maps: passed.append(maps[STAGE])
            )
            output = self.model(pixels)
            hook.remove()
            return (
                output.class_logits[-1],
                output.attribute_logits[-1],
                output.boxes_cxcywh[-1],
                output.mask_logits,
                passed[0],
            )

    return Asked().eval()
