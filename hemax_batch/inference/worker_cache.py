"""Keep the network and the open slides of a worker process between tasks."""

from __future__ import annotations

import threading
from collections import OrderedDict
from functools import lru_cache
from typing import TYPE_CHECKING

from ..errors import WeightsError
from ..records import Slide
from ..slides.reader import SlideReader, reopen

if TYPE_CHECKING:
    from ..model.predictor import Predictor

_MAX_OPEN_SLIDES = 3  # per thread: the current slide, and the first regions of the next ones


@lru_cache(maxsize=1)
def load_predictor(
    weights: str | None, sha256: str, device: str, engine: str = "torch", precision: str = "f32"
) -> Predictor:
    """Load the network once per process.

    Raises WeightsError if the file is not the one of the run's beginning.
    """
    from ..model.predictor import Predictor

    device = "cpu" if engine == "openvino" else _resolve_device(device)
    predictor = Predictor.load(weights, device, engine=engine, precision=precision)
    if predictor.card.sha256 != sha256:
        raise WeightsError(
            f"{predictor.card.path}: SHA-256 {predictor.card.sha256[:12]}… here, "
            f"{sha256[:12]}… at the run's beginning; every worker needs the same weights file (--weights on a shared folder)"
        )
    return predictor


def _resolve_device(device: str) -> str:
    """Return "cuda" or "cpu" for "auto", depending on this process. Other values are kept."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


class _ReaderCache(threading.local):
    """This thread's readers.

    A cluster's worker may run several regions at once, and a thread must not close another's reader.
    """

    def __init__(self) -> None:
        self.readers: OrderedDict[Slide, SlideReader] = OrderedDict()


_reader_cache = _ReaderCache()


def cached_reader(slide: Slide) -> SlideReader:
    """Return this thread's reader of `slide`, opened once.

    The least recently used reader is closed if there are more than `_MAX_OPEN_SLIDES`.
    """
    readers = _reader_cache.readers
    if slide not in readers:
        readers[slide] = reopen(slide, glass_for_damage=True)
        if len(readers) > _MAX_OPEN_SLIDES:
            readers.popitem(last=False)[1].close()
    readers.move_to_end(slide)
    return readers[slide]


def close_cached_reader(slide: Slide) -> None:
    """Close this thread's reader of `slide`, if there is one."""
    reader = _reader_cache.readers.pop(slide, None)
    if reader is not None:
        reader.close()
