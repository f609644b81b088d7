"""Weights from elsewhere are checked and kept; a training's log becomes curves."""

import hashlib

import pytest
from click.testing import CliRunner
from tiny_network import tiny_weights

from hemax_batch.cli.models import models
from hemax_batch.errors import WeightsError
from hemax_batch.learning.training.import_weights import import_weights
from hemax_batch.learning.training.learning_curves import draw_curves, read_log, smooth
from hemax_batch.model import checkpoint
from hemax_batch.model.checkpoint import SHIPPED


def test_imported_weights_stand_beside_their_card_and_hash(tmp_path):
    result = CliRunner().invoke(models, ["import", str(SHIPPED), "--to", str(tmp_path / "kept")])
    assert result.exit_code == 0, result.output
    kept = tmp_path / "kept" / SHIPPED.name
    digest = hashlib.sha256(SHIPPED.read_bytes()).hexdigest()
    assert kept.read_bytes() == SHIPPED.read_bytes() and digest in result.output
    assert digest in kept.with_suffix(".md").read_text("utf-8")
    import_weights(SHIPPED, tmp_path / "kept")  # once more: the same
    assert (tmp_path / "kept" / "SHA256SUMS").read_text() == f"{digest}  {kept.name}\n"


def test_damaged_weights_are_not_kept(tmp_path):
    raw = bytearray(SHIPPED.read_bytes())
    raw[-1] ^= 1
    (tmp_path / "bad.safetensors").write_bytes(raw)
    with pytest.raises(WeightsError, match="damaged"):
        import_weights(tmp_path / "bad.safetensors", tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize("other", [{"mpp": 0.24, "patch_px": 128}, {"mpp": 0.3, "patch_px": 160}])
def test_weights_of_another_scale_or_patch_are_not_averaged(tmp_path, other):
    plain, coarse = tiny_weights(tmp_path), tmp_path / "coarse.safetensors"
    checkpoint.save(
        checkpoint.load(plain)[0],
        coarse,
        temperature=1.0,
        min_confidence=0.1,
        trained={},
        metrics={},
        **other,
    )
    told = f"{plain}: 0.3 µm/px, patches of 128 px; {coarse}: {other['mpp']} µm/px, patches of {other['patch_px']} px"
    with pytest.raises(WeightsError, match=f"different scale .{told}.:"):
        checkpoint.average_weights([plain, coarse], tmp_path / "mean.safetensors")
    assert not (tmp_path / "mean.safetensors").exists()


def test_curves_take_the_later_of_two_rows_of_a_step(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text(
        "step,seconds,lr,loss,class,box\n20,1,0.1,9,4,5\n40,2,0.1,8,4,4\n40,1,0.1,6,3,3\n60,2,0.1,4,2,2\n"
    )
    assert read_log(log)["loss"] == [9, 6, 4]
    assert draw_curves(log, tmp_path / "curves.svg")
    assert "<svg" in (tmp_path / "curves.svg").read_text() and not draw_curves(
        tmp_path / "no.csv", tmp_path / "x.svg"
    )


def test_smoothing_is_a_running_mean():
    assert smooth([1, 3, 5]) == [1, 2, 3] and smooth([7] * 5 + [12])[-1] == 8
