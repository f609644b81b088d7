"""A peer on the same slide: TIAToolbox's engine for whole slides (2.1) with this package's network.

TIAToolbox needs an environment of its own, because it holds other versions of torch and dask (5.5
GB with CUDA's libraries):

    python3.11 -m venv ~/peer && ~/peer/bin/pip install tiatoolbox
    bin/bench --peer-python ~/peer/bin/python --sizes 0 --cells 0 SLIDE

`bin/bench` then runs `PEER_PYTHON -m hemax_batch.bench.peer SLIDE MPP CORES COUNT FOLDER`, which
prints a JSON object. The setup is that of a TIAToolbox user: PatchPredictor in WSI mode, its own
reader and tissue mask (the default), a batch size of 8, one loading process, the network's
operators on all cores, zarr output. Patches are the network's (320 px of 0.12 µm), 192 px apart, so
some patch shows each white cell of up to 15 µm whole.

The engine processes every patch of its mask. COUNT patches, evenly spread, are timed, and their
time is extrapolated. The time before (opening, mask) and after (writing) is taken as it is. The
engine does less than a run: it gives each query's class and box, without masks, merging,
explanations or report.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

    from ..model.checkpoint import WeightsCard
    from ..model.hemax import HemaX

BATCH, LOADERS = 8, 1
PATCH_PX, STRIDE_PX = 320, 192


def extrapolate_s(measured: dict[str, float], of: str = "s", stride_px: float = STRIDE_PX) -> float:
    """Extrapolate the seconds of the whole slide from the result of `measure`.

    Parameters
    ----------
    measured
        Result of `measure`.
    of
        "s" for wall seconds, "cpu_s" for processor seconds.
    stride_px
        Another distance between patches, which changes their number.

    Examples
    --------
    >>> measured = {"before_s": 2.0, "timed_s": 10.0, "after_s": 1.0, "items": 50, "of_items": 1000}
    >>> extrapolate_s(measured), extrapolate_s(measured, "s", 2 * STRIDE_PX)
    (203.0, 53.0)
    """
    patches = measured["of_items"] * (STRIDE_PX / stride_px) ** 2
    return round(
        measured[f"before_{of}"]
        + measured[f"timed_{of}"] / measured["items"] * patches
        + measured[f"after_{of}"],
        1,
    )


def wrap_network() -> tuple[Any, WeightsCard]:
    """Wrap HemaX as a TIAToolbox model; return it with the card of its weights."""
    import torch
    from tiatoolbox.models.models_abc import ModelABC

    from ..model import checkpoint
    from ..model.hemax import fold_batch_norms

    class Wrapped(ModelABC):  # type: ignore[misc]
        """Map patches uint8 [B, H, W, 3] to classes and box of each query, float32 [B, Q, K + 5]."""

        def __init__(self, network: HemaX) -> None:
            super().__init__()
            self.network = network

        def forward(self, patches: torch.Tensor) -> torch.Tensor:
            output = self.network(patches)
            return torch.cat(
                [output.class_logits[-1].float().softmax(-1), output.boxes_cxcywh[-1].float()], -1
            )

        @staticmethod
        def infer_batch(model: Any, batch_data: torch.Tensor, *, device: str) -> np.ndarray:
            patches = batch_data.to(device).permute(0, 3, 1, 2).contiguous()
            with (
                torch.inference_mode(),
                torch.autocast("cuda", torch.bfloat16, enabled=device != "cpu"),
            ):
                outputs: np.ndarray = model(patches).cpu().numpy()
                return outputs

        @staticmethod
        def postproc(outputs: np.ndarray) -> np.ndarray:
            """Return each patch's class: the likeliest over its queries; the last is "no cell"."""
            classes: np.ndarray = outputs[..., :-4].max(axis=1).argmax(axis=-1)
            return classes

    network, card = checkpoint.load()
    return Wrapped(fold_batch_norms(network)), card


def subsample_engine(engine_class: Any, count: int) -> Any:
    """Derive an engine that processes `count` patches, evenly spread, and times its inference."""

    class Subsampled(engine_class):  # type: ignore[misc]
        def get_dataloader(self, *arguments: Any, **options: Any) -> Any:
            loader = super().get_dataloader(*arguments, **options)
            places = loader.dataset.inputs
            self.of_items = len(places)
            loader.dataset.inputs = places[
                np.linspace(0, len(places) - 1, min(count, len(places))).astype(int)
            ]
            return loader

        def infer_wsi(self, *arguments: Any, **options: Any) -> Any:
            self.clocks = [clocks()]
            try:
                return super().infer_wsi(*arguments, **options)
            finally:
                self.clocks.append(clocks())

    return Subsampled


def measure(slide: Path, mpp: float, cores: int, count: int, folder: Path) -> dict[str, object]:
    """Run the engine on a slide into an empty folder.

    Parameters
    ----------
    mpp
        µm per level-0 pixel: TIAToolbox does not read it from every TIFF's resolution.
    count
        Number of patches that are timed.

    Returns
    -------
    dict
        Seconds before, within and after the timed patches.
    """
    import torch
    from tiatoolbox.models.engine.io_config import IOPatchPredictorConfig
    from tiatoolbox.models.engine.patch_predictor import PatchPredictor

    torch.set_num_threads(cores)
    model, card = wrap_network()
    working = [{"units": "mpp", "resolution": card.mpp}]
    ioconfig = IOPatchPredictorConfig(
        input_resolutions=working,
        output_resolutions=working,
        patch_input_shape=(PATCH_PX, PATCH_PX),
        stride_shape=(STRIDE_PX, STRIDE_PX),
    )
    engine = subsample_engine(PatchPredictor, count)(
        model,
        batch_size=BATCH,
        num_workers=LOADERS,
        device="cuda" if torch.cuda.is_available() else "cpu",
        verbose=False,
    )
    begun = clocks()
    engine.run(
        images=[slide],
        patch_mode=False,
        ioconfig=ioconfig,
        save_dir=folder / "peer",
        output_type="zarr",
        return_probabilities=True,
        wsireader_kwargs={"mpp": (mpp, mpp)},
    )
    marks = np.array([begun, *engine.clocks, clocks()])
    lasted = {
        f"{part}_{of}": round(seconds, 3)
        for of, column in zip(("s", "cpu_s"), np.diff(marks, axis=0).T.tolist(), strict=True)
        for part, seconds in zip(("before", "timed", "after"), column, strict=True)
    }
    name = f"TIAToolbox {version('tiatoolbox')}, torch {torch.__version__}"
    return {
        "peer": name,
        **lasted,
        "items": len(engine.dataloader.dataset),
        "of_items": engine.of_items,
    }


def clocks() -> tuple[float, float]:
    """Return wall seconds, and processor seconds of this process and its live descendants."""
    import psutil

    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return time.perf_counter(), sum(t.user + t.system for t in times)


if __name__ == "__main__":
    slide, mpp, cores, count, folder = sys.argv[1:]
    print(json.dumps(measure(Path(slide), float(mpp), int(cores), int(count), Path(folder))))
