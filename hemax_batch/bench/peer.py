"""A peer on the same slide: TIAToolbox's engine for whole slides (2.1) with this package's network as its model.

It has an environment of its own, since it holds other versions of torch and dask (5.5 GB with CUDA's libraries):

    python3.11 -m venv ~/peer && ~/peer/bin/pip install tiatoolbox
    bin/bench --peer-python ~/peer/bin/python --sizes 0 --cells 0 SLIDE

`bin/bench` then runs `PEER_PYTHON -m hemax_batch.bench.peer SLIDE MPP CORES COUNT FOLDER`, which prints a JSON object.
Set up as a user of TIAToolbox would: PatchPredictor in its WSI mode, its own reader, its own tissue mask (its default),
its batch size of 8, one loading process, the network's operators on all cores, zarr output. Patches are those that the
network takes (320 px of 0.12 µm), laid 192 px apart, so that a white cell of up to 15 µm is whole in some patch.

It looks at every patch of its mask; COUNT of them, evenly spread, are timed, and the time of these alone is multiplied;
what comes before (opening, mask) and after (writing) is taken as it is. It is asked for less than a run gives: the
queries' classes and boxes of each patch, no masks drawn, nothing told twice merged, no explanation, no report.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

BATCH, LOADERS = 8, 1
PATCH_PX, STRIDE_PX = 320, 192


def extrapolate_s(measured: dict[str, float], of: str = "s", stride_px: float = STRIDE_PX) -> float:
    """Seconds ("s") or processor seconds ("cpu_s") of the whole slide, from what `measure_cells` tells; with another stride,
    so many patches more or fewer.

    >>> told = {"before_s": 2.0, "timed_s": 10.0, "after_s": 1.0, "items": 50, "of_items": 1000}
    >>> extrapolate_s(told), extrapolate_s(told, "s", 2 * STRIDE_PX)
    (203.0, 53.0)
    """
    patches = measured["of_items"] * (STRIDE_PX / stride_px) ** 2
    return round(
        measured[f"before_{of}"]
        + measured[f"timed_{of}"] / measured["items"] * patches
        + measured[f"after_{of}"],
        1,
    )


def wrap_network():
    """HemaX as a model of TIAToolbox's, and the card of its weights."""
    import torch
    from tiatoolbox.models.models_abc import ModelABC

    from ..model import checkpoint
    from ..model.hemax import fold_batch_norms

    class Wrapped(ModelABC):
        """Patches uint8 [B, H, W, 3] to what each query is: float32 [B, Q, classes and none and box]."""

        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, patches):
            output = self.network(patches)
            return torch.cat(
                [output.class_logits[-1].float().softmax(-1), output.boxes_cxcywh[-1].float()], -1
            )

        @staticmethod
        def infer_batch(model, batch_data, *, device):
            patches = batch_data.to(device).permute(0, 3, 1, 2).contiguous()
            with (
                torch.inference_mode(),
                torch.autocast("cuda", torch.bfloat16, enabled=device != "cpu"),
            ):
                return model(patches).cpu().numpy()

        @staticmethod
        def postproc(answers):
            """Each patch's class: of its surest query, the last being that there is none."""
            return answers[..., :-4].max(axis=1).argmax(axis=-1)

    network, card = checkpoint.load()
    return Wrapped(fold_batch_norms(network)), card


def subsample_engine(engine_class, count: int):
    """The engine with fewer patches, evenly spread, and a clock round its inference."""

    class Thinned(engine_class):
        def get_dataloader(self, *arguments, **options):
            loader = super().get_dataloader(*arguments, **options)
            places = loader.dataset.inputs
            self.of_items = len(places)
            loader.dataset.inputs = places[
                np.linspace(0, len(places) - 1, min(count, len(places))).astype(int)
            ]
            return loader

        def infer_wsi(self, *arguments, **options):
            self.clocks = [clocks()]
            try:
                return super().infer_wsi(*arguments, **options)
            finally:
                self.clocks.append(clocks())

    return Thinned


def measure(slide: Path, mpp: float, cores: int, count: int, folder: Path) -> dict[str, object]:
    """Run the engine on a slide into an empty folder; seconds before, within and after the patches that are timed.

    mpp  of level 0: TIAToolbox does not read it from every TIFF's resolution
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
    """Seconds on the wall, and of processors by this process and those that it started and still has."""
    import psutil

    mine = psutil.Process()
    times = [process.cpu_times() for process in (mine, *mine.children(recursive=True))]
    return time.perf_counter(), sum(t.user + t.system for t in times)


if __name__ == "__main__":
    slide, mpp, cores, count, folder = sys.argv[1:]
    print(json.dumps(measure(Path(slide), float(mpp), int(cores), int(count), Path(folder))))
