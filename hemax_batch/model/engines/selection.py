"""Choice of the engine that runs the network."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import EngineError
from .. import checkpoint
from ..network_output import Engine
from .openvino_engine import OpenVinoEngine

#: Linux's names of the CPU's bf16 instructions.
_BF16_FLAGS = {"avx512_bf16", "amx_bf16"}

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


@lru_cache(maxsize=1)
def bf16_instruction() -> str:
    """Name the bf16 instructions of this machine's CPU; "" without any."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return ""
    flags = next((set(line.split()) for line in lines if line.startswith("flags")), set())
    return min(_BF16_FLAGS & flags, default="")


def resolve_engine(engine: str, precision: str, on_cpu: bool) -> tuple[str, str]:
    """Choose what "auto" means here: an engine and a precision.

    OpenVINO is chosen for a CPU where it is installed, bf16 where that CPU has the instructions.

    Parameters
    ----------
    engine
        "auto", "torch" or "openvino".
    precision
        "auto", "f32" or "bf16".
    on_cpu
        Whether the network runs on this machine's CPU.
    """
    if engine == "auto":
        engine = "openvino" if on_cpu and find_spec("openvino") is not None else "torch"
    if precision == "auto":
        precision = "bf16" if on_cpu and engine == "openvino" and bf16_instruction() else "f32"
    return engine, precision


def load_engine(
    engine: str,
    path: str | Path | None = None,
    device: str = "cpu",
    precision: str = "f32",
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
    precision
        "f32", or "bf16" for OpenVINO.

    Raises
    ------
    EngineError
        The engine's package is not installed, or the CPU has no bf16 instructions.
    WeightsError
        As `checkpoint.read_card`.
    """
    check_engine(engine)
    if precision == "bf16" and not bf16_instruction():
        # OpenVINO would compute in f32 and say nothing. Results would depend on the worker.
        raise EngineError(
            "--precision bf16: this machine's CPU has no bf16 instructions. Every worker needs them. "
            "Use --precision f32."
        )
    if engine == "openvino":
        card = checkpoint.read_card(path)
        return OpenVinoEngine(card, precision), card
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
