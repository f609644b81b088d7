"""Exceptions of this package. Messages quote both values, name the slide and give the remedy.

`HemaxError` is the root. The command line prints its message without a traceback. `SlideError` and
its subclasses concern one slide and never stop the others.
"""

from __future__ import annotations


class HemaxError(Exception):
    """An expected failure. The command line ends with its `exit_code`."""

    exit_code = 1


class UsageError(HemaxError):
    """The arguments contradict each other or are out of range (exit code 2)."""

    exit_code = 2


class OutputError(HemaxError):
    """The results folder cannot be used (exit code 6).

    It is a file, it is not writable, or the disk is full.
    """

    exit_code = 6


class LockedError(HemaxError):
    """Another run holds the results folder (exit code 5)."""

    exit_code = 5


class StoppedError(HemaxError):
    """The run was stopped before it held the results folder. `exit_code` depends on the cause."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class WeightsError(HemaxError):
    """A checkpoint is corrupt, has another vocabulary, or has an unexpected hash."""


class EngineError(HemaxError):
    """The engine of the network (`--engine`) is not installed."""


class DataError(HemaxError):
    """A data set for training or evaluation is malformed. The message names the file and row."""


class ResultsError(HemaxError):
    """Published results of a slide cannot be read.

    They are incomplete, damaged, of another format or edited by hand.
    """


class GpuLostError(HemaxError):
    """A GPU failed during a task.

    Attributes
    ----------
    gpu
        The GPU as CUDA_VISIBLE_DEVICES names it.
    worker
        Address of the dask worker, or "" without dask.
    """

    def __init__(self, message: str, gpu: str = "", worker: str = "") -> None:
        super().__init__(message)
        self.gpu, self.worker = gpu, worker


class SlideError(HemaxError):
    """One slide cannot be processed. The message names it. The other slides continue."""


class UnreadableSlideError(SlideError):
    """The file is no slide, is truncated or empty, is missing, or has unsupported pixels."""


class MissingMppError(SlideError):
    """The slide does not say its µm/px, and `--mpp` was not given."""


class UnsuitableSlideError(SlideError):
    """The slide is readable but not usable: too coarse, or too many unreadable regions."""


class ReadError(SlideError):
    """A part of a readable slide could not be decoded (a corrupt tile, a lost mount)."""


def exit_code_for(failed: int, total: int) -> int:
    """Return 0 if no slide failed, 3 if some failed, 4 if all failed."""
    return 0 if not failed else 4 if failed == total else 3


def one_line(error: BaseException) -> str:
    """Return an error's message on one line, for a cell of a table or a line of a log.

    >>> one_line(ValueError("sampling factors 2,2\nshould be 1,1"))
    'sampling factors 2,2 should be 1,1'
    """
    return " ".join(str(error).splitlines())
