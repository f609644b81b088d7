"""What a worker process keeps between tasks: the network, and the slides that it has open."""

from __future__ import annotations

import threading
from collections import OrderedDict
from functools import lru_cache

from ..errors import WeightsError
from ..records import Slide
from ..slides.reader import SlideReader, reopen

_MAX_OPEN_SLIDES = (
    3  # kept open per thread that works: this slide's, and the next one's first regions
)


@lru_cache(maxsize=1)
def load_predictor(
    weights: str | None, sha256: str, device: str, engine: str = "torch", precision: str = "f32"
):
    """This process's network, loaded once. WeightsError where the file is not the one that the run began with."""
    from ..model.predictor import Predictor

    device = "cpu" if engine == "openvino" else _resolve_device(device)
    predictor = Predictor.load(weights, device, engine=engine, precision=precision)
    if predictor.card.sha256 != sha256:
        raise WeightsError(
            f"{predictor.card.path}: SHA-256 {predictor.card.sha256[:12]}… here, {sha256[:12]}… where the run began; "
            "every worker needs the same weights file (--weights on a shared folder)"
        )
    return predictor


def _resolve_device(device: str) -> str:
    """ "auto" as "cuda" where this process sees a GPU, else "cpu"; anything else as it is."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


class _ReaderCache(threading.local):
    """This thread's readers: a cluster's worker may run several regions at once, and none may close another's."""

    def __init__(self):
        self.readers: OrderedDict[Slide, SlideReader] = OrderedDict()


_reader_cache = _ReaderCache()


def cached_reader(slide: Slide) -> SlideReader:
    """This thread's reader of `slide`, opened once; the one unused for longest is closed beyond `_MAX_OPEN_SLIDES`."""
    readers = _reader_cache.readers
    if slide not in readers:
        readers[slide] = reopen(slide, glass_for_damage=True)
        if len(readers) > _MAX_OPEN_SLIDES:
            readers.popitem(last=False)[1].close()
    readers.move_to_end(slide)
    return readers[slide]


def close_cached_reader(slide: Slide) -> None:
    reader = _reader_cache.readers.pop(slide, None)
    if reader is not None:
        reader.close()
