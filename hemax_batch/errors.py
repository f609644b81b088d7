"""What can go wrong, as exceptions that quote both values, name the slide and say the remedy.

`HemaxError` is the root; the command line prints its message without a traceback. `SlideError` and its
children concern one slide and never stop the others.
"""

from __future__ import annotations


class HemaxError(Exception):
    """Anything this package refuses on purpose. `exit_code` is what the command line ends with."""

    exit_code = 1


class UsageError(HemaxError):
    """The arguments do not make sense together (exit code 2)."""

    exit_code = 2


class OutputError(HemaxError):
    """The results folder cannot be used: it is a file, is not writable, or the disk is full (exit code 6)."""

    exit_code = 6


class LockedError(HemaxError):
    """Another run holds the results folder (exit code 5)."""

    exit_code = 5


class StoppedError(HemaxError):
    """The run was told to stop before it held the results folder; `exit_code` says by what."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


class WeightsError(HemaxError):
    """A checkpoint is corrupt, of another vocabulary, or its hash does not match."""


class EngineError(HemaxError):
    """What the network is to run in (`--engine`) is not installed."""


class DataError(HemaxError):
    """A training or evaluation data set is malformed; the message names the file and row."""


class ResultsError(HemaxError):
    """A slide's published results cannot be read back: half done, damaged, of another format or edited by hand."""


class GpuLostError(HemaxError):
    """A graphics card failed under a task. `gpu`: as CUDA_VISIBLE_DEVICES names it; `worker`: address of the dask
    worker that it happened to, "" without one."""

    def __init__(self, message: str, gpu: str = "", worker: str = ""):
        super().__init__(message)
        self.gpu, self.worker = gpu, worker


class SlideError(HemaxError):
    """One slide cannot be done; `str(error)` names it. The others go on."""


class UnreadableSlideError(SlideError):
    """Not a slide, truncated, zero bytes, vanished, or of an unsupported pixel type."""


class MissingMppError(SlideError):
    """The slide does not say its µm/px and `--mpp` was not given."""


class UnsuitableSlideError(SlideError):
    """Readable but of no use here: far too coarse, or too many of its regions cannot be read."""


class ReadError(SlideError):
    """A part of an otherwise readable slide could not be decoded (a corrupt tile, a lost mount)."""


def exit_code_for(failed: int, of: int) -> int:
    """0 where none of so many slides failed, 3 where some did, 4 where all did."""
    return 0 if not failed else 4 if failed == of else 3


def one_line(error: BaseException) -> str:
    """What a library's error says, on one line: a reason is a cell of a table and a line of a log.

    >>> one_line(ValueError("sampling factors 2,2\nshould be 1,1"))
    'sampling factors 2,2 should be 1,1'
    """
    return " ".join(str(error).splitlines())
