"""Choice of the engine that runs the network."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import EngineError
from .. import checkpoint
from ..network_output import Engine
from .openvino_engine import OpenVinoEngine

if TYPE_CHECKING:
    from ..hemax import HemaX


def check_engine(engine: str) -> None:
    """Check that an engine's package is installed, without importing it.

    Raises
    ------
    EngineError
        It is not installed.
    """
    if engine == "openvino" and find_spec("openvino") is None:
        raise EngineError(
            "--engine openvino: the package openvino is not installed. Install it with "
            "pip install 'hemax-batch[openvino]', or use --engine torch."
        )


def load_engine(
    engine: str, path: str | Path | None = None, device: str = "cpu"
) -> tuple[Engine, checkpoint.WeightsCard]:
    """Load a checkpoint's network into an engine.

    Parameters
    ----------
    engine
        "torch" or "openvino".
    path
        Checkpoint; None for the shipped weights.
    device
        "cpu" or "cuda"; OpenVINO always runs on the CPU.

    Raises
    ------
    EngineError
        The engine's package is not installed.
    WeightsError
        As `checkpoint.read_card`.
    """
    check_engine(engine)
    if engine == "openvino":
        card = checkpoint.read_card(path)
        return OpenVinoEngine(card), card
    from ..hemax import fold_batch_norms
    from .torch_engine import TorchEngine

    model, card = checkpoint.load(path)
    return TorchEngine.for_worker(fold_batch_norms(model), device), card


def as_engine(model: HemaX | Engine, device: str) -> Engine:
    """Return `model` if it is an engine, else a PyTorch engine for it."""
    if isinstance(model, OpenVinoEngine):
        return model
    from ..hemax import HemaX
    from .torch_engine import TorchEngine

    return TorchEngine(model, device) if isinstance(model, HemaX) else model
