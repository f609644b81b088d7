"""Which engine the network runs in."""

from __future__ import annotations

from importlib.util import find_spec

from ...errors import EngineError
from .. import checkpoint
from .openvino_engine import OpenVinoEngine


def check_engine(engine: str) -> None:
    """Raise EngineError where what the network is to run in is not installed, without loading it."""
    if engine == "openvino" and find_spec("openvino") is None:
        raise EngineError(
            "--engine openvino: the package openvino is not installed here; pip install 'hemax-batch[openvino]', or use "
            "--engine torch"
        )


def load_engine(engine: str, path=None, device: str = "cpu"):
    """The network of a checkpoint (None = the shipped one) in an engine, and its card.

    EngineError where the package of that engine is not there, WeightsError as `checkpoint.read_card`.
    """
    check_engine(engine)
    if engine == "openvino":
        card = checkpoint.read_card(path)
        return OpenVinoEngine(card), card
    from ..hemax import fold_batch_norms
    from .torch_engine import TorchEngine

    model, card = checkpoint.load(path)
    return TorchEngine.for_worker(fold_batch_norms(model), device), card


def as_engine(model, device: str):
    """The engine that answers: `model` itself, or PyTorch's for a bare HemaX."""
    if isinstance(model, OpenVinoEngine):
        return model
    from .torch_engine import TorchEngine

    return model if isinstance(model, TorchEngine) else TorchEngine(model, device)
