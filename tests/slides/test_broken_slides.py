"""A corpus of broken slides in one run: it neither crashes nor hangs, and every slide is done or failed with a reason.

About 40 of the slides by default; all of them, and those made from ../shared/data/slides where that is, with
HEMAX_FAULTS=all.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from broken_slides import sound_slides, write_corpus
from checkout import ROOT, SHARED, SUPPORT
from painted_slides import smear, write_pyramid
from tiny_network import tiny_weights

from hemax_batch.slides.reader import open_slide

pytestmark = pytest.mark.slow

REAL = SHARED / "data" / "slides"
ALL = os.environ.get("HEMAX_FAULTS") == "all"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("corpus")
    sound = sound_slides(folder / "sound")
    made = write_corpus(folder / "broken", sound)
    if ALL and REAL.is_dir():  # without DICOM: copies of one series in a folder count as one slide
        real = sorted(p for p in REAL.iterdir() if p.suffix in (".svs", ".tif", ".ndpi"))
        made += write_corpus(folder / "real", real)[:-1:7]  # a sound one takes a minute
    return made


def test_the_corpus_has_at_least_200_different_slides(corpus):
    assert len({path.read_bytes() for path in corpus}) >= 200


def test_every_broken_slide_is_done_or_failed_with_a_reason(corpus, tmp_path):
    chosen = corpus if ALL else corpus[::7]
    assert len(chosen) >= 35
    listed, out = tmp_path / "slides.txt", tmp_path / "out"
    good = write_pyramid(tmp_path / "good.tif", smear(400, 300, 12), mpp=0.25)
    listed.write_text("\n".join(map(str, [*chosen, good])))
    weights = tiny_weights(tmp_path)
    command = [
        sys.executable,
        SUPPORT / "painted_network.py",
        "run",
        listed,
        "--out",
        out,
        "--weights",
        weights,
    ]
    command += ["--workers", "0", "--core-um", "100", "--region-timeout", "60", "--quiet"]
    ran = subprocess.run(
        [str(c) for c in command], capture_output=True, text=True, timeout=3000 if ALL else 240
    )
    assert ran.returncode == 3, (ran.stdout + ran.stderr)[-3000:]
    slides = json.loads((out / "run.json").read_text())["slides"]
    assert len(slides) == len(chosen) + 1
    outcomes = Counter(slide["state"] for slide in slides)
    assert set(outcomes) == {"done", "failed"}, outcomes
    for slide in slides:
        done = slide["state"] == "done"
        assert done == (out / slide["slide"]).is_dir()
        assert done or (
            slide["path"] in slide["reason"] and len(slide["reason"]) > len(slide["path"]) + 20
        ), slide
        assert "Traceback" not in slide["reason"] and "\n" not in slide["reason"], slide
    assert next(s for s in slides if s["path"] == str(good))["state"] == "done"
    print(dict(outcomes))


def test_jpeg_tables_that_are_numbers_do_not_reach_the_decoder(tmp_path):
    """As the fuzz target found them: a damaged type of tag 347."""
    path = write_pyramid(
        tmp_path / "tables.tif", smear(400, 300, 11), mpp=0.25, extratags=[(347, "H", 3, (1, 2, 3))]
    )
    with open_slide(path, "tables") as reader:
        assert reader.slide.backend == "openslide"  # which gives its own reasons


def test_a_few_seconds_of_fuzzing_find_nothing(tmp_path):
    command = [sys.executable, SUPPORT / "fuzz_tiff.py", "0.05", "1"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        list(map(str, command)), cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert int(ran.stdout.split()[0]) > 5
