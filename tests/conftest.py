"""Fixtures shared by the tests. Slides are painted small and real: see `painted.py`."""

from __future__ import annotations

import pytest
from painted import SlideMaker


@pytest.fixture
def slides(tmp_path) -> SlideMaker:
    """A maker of painted slides in this test's own folder `tmp_path/slides`."""
    return SlideMaker(tmp_path / "slides")
