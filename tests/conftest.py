"""Fixtures shared by the tests. Slides are painted small and real: see `paint_patches.py`."""

from __future__ import annotations

import hypothesis
import pytest
from painted_slides import SlideMaker

# a time limit on an example fails on a loaded machine, where nothing is wrong; the suite is timed as a whole
hypothesis.settings.register_profile("hemax", deadline=None)
hypothesis.settings.load_profile("hemax")


@pytest.fixture
def slides(tmp_path) -> SlideMaker:
    """A maker of painted slides in this test's own folder `tmp_path/slides`."""
    return SlideMaker(tmp_path / "slides")


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A small network's checkpoint, untrained."""
    from tiny_network import tiny_weights  # imports torch, which not every test needs

    return tiny_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def fault(monkeypatch):
    """Orders a fault of `painted_network` for runs in this process and their workers."""

    def order(words: str) -> None:
        from hemax_batch.scheduling import dask_cluster

        monkeypatch.setenv("HEMAX_TEST_FAULT", words)
        # the fork server keeps the environment that it was started in, which may have been an earlier test's
        monkeypatch.setattr(dask_cluster, "START_METHOD", "spawn")

    return order
