"""The OpenVINO engine says what PyTorch says, without loading it once the network is translated."""

import os
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from tiny_network import tiny_weights

from hemax_batch.cli import app
from hemax_batch.errors import EngineError
from hemax_batch.mask_packing import unpack_mask
from hemax_batch.model.checkpoint import read_card
from hemax_batch.model.engines import openvino_conversion, openvino_engine, selection
from hemax_batch.model.engines.openvino_conversion import cache_folder
from hemax_batch.model.engines.selection import bf16_instruction, check_engine, resolve_engine
from hemax_batch.model.predictor import Predictor
from hemax_batch.records import PatchBatch

pytestmark = pytest.mark.slow

needs_openvino = pytest.mark.skipif(
    selection.find_spec("openvino") is None,
    reason="openvino is not installed: pip install 'hemax-batch[openvino]'",
)
PROBABILITY, PIXELS = (
    1e-4,
    0.002,
)  # by which a figure, and the share of a cell's pixels by which its mask, may differ

BF16_PROBABILITY, BF16_BOX_PX, BF16_IOU = 0.1, 4, 0.97  # likewise in bf16


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache folder of this module's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield cache_folder()


@pytest.fixture(scope="module")
def batch() -> PatchBatch:
    """Four drawn cells, one a patch."""
    from hemax_batch.synthetic import draw_cell_patch

    kinds = ("segmented_neutrophil", "lymphocyte", "monocyte", "eosinophil")
    drawn = [
        draw_cell_patch(np.random.default_rng(i), kind, 320, 0.12)[0]
        for i, kind in enumerate(kinds)
    ]
    return PatchBatch(
        np.stack([rgb.transpose(2, 0, 1) for rgb in drawn]),
        np.arange(8).reshape(4, 2) * 1000.0,
        1.2,
    )


@needs_openvino
def test_it_says_what_torch_says(cache, batch):
    plain, other = (Predictor.load(engine=engine)(batch, 0.1) for engine in ("torch", "openvino"))
    a, b = plain.cells, other.cells
    assert len(a) == len(b) >= 4 and np.array_equal(plain.patch_index, other.patch_index)
    for name in ("scores", "class_probs", "attribute_probs", "ood_score"):
        assert np.abs(getattr(a, name) - getattr(b, name)).max() < PROBABILITY, name
    assert np.abs(a.boxes_xyxy - b.boxes_xyxy).max() <= 1
    for i in range(len(a)):
        pixels = [np.zeros((800, 800), np.uint8) for _ in (a, b)]
        for page, cells in zip(pixels, (a, b), strict=True):
            x, y = cells.mask_xy[i] - plain_corner(batch, plain.patch_index[i])
            mask = unpack_mask(cells.masks[i], cells.mask_hw[i])
            page[y + 100 : y + 100 + len(mask), x + 100 : x + 100 + mask.shape[1]] = mask
        assert (pixels[0] != pixels[1]).sum() <= PIXELS * (pixels[0] > 0).sum()


def _masks_iou(batch, patch: int, a, b, i: int) -> float:
    pixels = [np.zeros((800, 800), bool) for _ in (a, b)]
    for page, cells in zip(pixels, (a, b), strict=True):
        x, y = cells.mask_xy[i] - plain_corner(batch, patch) + 100
        mask = unpack_mask(cells.masks[i], cells.mask_hw[i]) > 0
        page[y : y + len(mask), x : x + mask.shape[1]] = mask
    return (pixels[0] & pixels[1]).sum() / (pixels[0] | pixels[1]).sum()


@needs_openvino
@pytest.mark.skipif(not bf16_instruction(), reason="this CPU has no bf16 instructions")
def test_bf16_agrees_with_torch_in_masks_boxes_and_classes(cache, batch):
    plain = Predictor.load(engine="torch")(batch, 0.1)
    fast = Predictor.load(engine="openvino", precision="bf16")(batch, 0.1)
    a, b = plain.cells, fast.cells
    assert len(a) == len(b) >= 4 and np.array_equal(plain.patch_index, fast.patch_index)
    assert np.array_equal(a.class_probs.argmax(1), b.class_probs.argmax(1))
    assert np.abs(a.class_probs - b.class_probs).max() < BF16_PROBABILITY
    assert np.abs(a.boxes_xyxy - b.boxes_xyxy).max() <= BF16_BOX_PX
    ious = [_masks_iou(batch, k, a, b, i) for i, k in enumerate(plain.patch_index.tolist())]
    assert min(ious) >= BF16_IOU


def test_auto_means_openvino_on_a_cpu_and_bf16_only_with_its_instructions(monkeypatch):
    monkeypatch.setattr(selection, "find_spec", lambda name: name)
    monkeypatch.setattr(selection, "bf16_instruction", lambda: "amx_bf16")
    assert resolve_engine("auto", "auto", on_cpu=True) == ("openvino", "bf16")
    assert resolve_engine("auto", "auto", on_cpu=False) == ("torch", "f32")
    assert resolve_engine("torch", "auto", on_cpu=True) == ("torch", "f32")
    assert resolve_engine("openvino", "f32", on_cpu=True) == ("openvino", "f32")
    monkeypatch.setattr(selection, "bf16_instruction", lambda: "")
    assert resolve_engine("auto", "auto", on_cpu=True) == ("openvino", "f32")
    with pytest.raises(EngineError, match="no bf16 instructions"):
        selection.load_engine("openvino", precision="bf16")
    monkeypatch.setattr(selection, "find_spec", lambda name: None)
    assert resolve_engine("auto", "auto", on_cpu=True) == ("torch", "f32")


def plain_corner(batch: PatchBatch, patch: int) -> np.ndarray:
    return batch.origins[patch].astype(int)


@needs_openvino
def test_patches_do_not_depend_on_their_batch_nor_sizes_on_one_another(cache, tmp_path):
    network = Predictor.load(tiny_weights(tmp_path, no_cell_bias=-1.0), engine="openvino").network
    pixels = np.random.default_rng(0).integers(60, 250, (3, 3, 128, 128), dtype=np.uint8)
    together, small = network(pixels), network(pixels[:1, :, :64, :64])
    assert (
        together.confident.any()
        and len(together.mask_logits) == together.confident.sum()
        and small.boxes_cxcywh.shape == (1, 12, 4)
    )
    for i in range(3):
        alone = network(pixels[i : i + 1])
        assert np.array_equal(alone.class_logits[0], together.class_logits[i])
        assert np.array_equal(
            alone.mask_logits,
            together.mask_logits[together.confident[:i].sum() : together.confident[: i + 1].sum()],
        )


_LOADED = """
import sys, numpy as np
from hemax_batch.model.predictor import Predictor
answer = Predictor.load(sys.argv[1], engine="openvino").network(np.zeros((1, 3, 128, 128), np.uint8))
print("torch" in sys.modules, answer.class_logits.sum())
"""


@needs_openvino
def test_once_translated_it_is_loaded_without_torch_and_nobody_is_told(tmp_path):
    weights = tiny_weights(tmp_path)
    env = os.environ | {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-c", _LOADED, str(weights)]
    told = [
        subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.split()
        for _ in range(2)
    ]
    assert [said[0] for said in told] == ["True", "False"] and told[0][1] == told[1][1]
    assert not (tmp_path / "intel").exists()  # where its makers' telemetry keeps this user's number
    assert not list((tmp_path / "cache").rglob("making-*"))


@needs_openvino
def test_it_goes_on_without_a_cache_and_past_a_damaged_one(tmp_path, monkeypatch):
    weights, pixels = tiny_weights(tmp_path), np.full((1, 3, 128, 128), 200, np.uint8)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    first = Predictor.load(weights, engine="openvino").network(pixels)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Predictor.load(weights, engine="openvino").network(pixels)
    for path in (tmp_path / "cache").rglob("network.xml"):
        path.write_text("<net")
    again = Predictor.load(weights, engine="openvino").network(pixels)
    assert np.array_equal(first.class_logits, again.class_logits)


@needs_openvino
def test_it_goes_on_where_its_user_has_no_home(tmp_path, monkeypatch):
    def no_home(_cls):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(openvino_conversion.Path, "home", classmethod(no_home))
    network = Predictor.load(tiny_weights(tmp_path), engine="openvino").network
    assert network(np.full((1, 3, 64, 64), 200, np.uint8)).boxes_cxcywh.shape == (1, 12, 4)


def test_without_the_package_a_run_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(selection, "find_spec", lambda name: None)
    with pytest.raises(
        EngineError, match=r"pip install 'hemax-batch\[openvino\]', or use --engine torch"
    ):
        check_engine("openvino")
    check_engine("torch")
    (tmp_path / "in").mkdir()
    said = CliRunner().invoke(
        app.main,
        [
            "run",
            str(tmp_path / "in"),
            "--out",
            str(tmp_path / "out"),
            "--engine",
            "openvino",
            "--dry-run",
        ],
    )
    assert said.exit_code == 1 and "hemax-batch[openvino]" in said.output


@needs_openvino
def test_workers_threads_are_not_pinned_to_one_core(cache):
    compiled = openvino_engine.OpenVinoEngine(read_card(None))._compile((320, 320))
    assert (
        compiled.get_property("ENABLE_CPU_PINNING") is False
        and compiled.get_property("INFERENCE_NUM_THREADS") == 1
    )
