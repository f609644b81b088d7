"""HemaX: shapes, laws, the matcher and losses against slow references, checkpoints that are refused, predictions that
do not depend on the batch."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from hemax_batch import vocabulary
from hemax_batch.errors import WeightsError
from hemax_batch.model import checkpoint, criterion, hemax
from hemax_batch.model.matcher import CLASS_COST, GIOU_COST, L1_COST, Targets, generalised_iou, match, to_xyxy
from hemax_batch.model.predictor import Predictor, sample_at
from hemax_batch.model.torch_network import TorchNetwork
from hemax_batch.records import PatchBatch, unpack_mask

K, A = vocabulary.N_CLASSES, vocabulary.N_ATTRIBUTE_STATES


def targets_of(boxes, classes, size=64, states=None):
    n = len(boxes)
    allowed = torch.zeros(n, K, dtype=torch.bool)
    for i, c in enumerate(classes):
        allowed[i, list(c) if isinstance(c, tuple) else c] = True
    attributes = torch.full((n, len(vocabulary.ATTRIBUTES)), -1) if states is None else torch.tensor(states)
    return Targets(
        torch.tensor(boxes, dtype=torch.float32).reshape(n, 4), torch.ones(n), allowed, attributes,
        torch.zeros(n, size // 2, size // 2, dtype=torch.uint8), torch.zeros(n),
        torch.zeros(size // 8, size // 8, dtype=torch.bool),
    )  # fmt: skip


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return hemax.build("hemax-s").eval()


@pytest.mark.parametrize("arch", hemax.ARCHITECTURES)
def test_every_architecture_gives_the_shapes_it_promises(arch):
    model = hemax.build(arch).eval()
    q, layers = model.cfg.n_queries, model.cfg.decoder_layers
    with torch.inference_mode():
        o = model(torch.zeros(2, 3, 64, 96, dtype=torch.uint8))
    assert o.class_logits.shape == (layers, 2, q, K + 1)
    assert o.boxes_cxcywh.shape == (layers, 2, q, 4)
    assert o.attribute_logits.shape == (layers, 2, q, A)
    assert o.mask_logits.shape == (2, q, 2, 16, 24)
    assert (o.boxes_cxcywh[..., 2:] > 0).all()


@pytest.mark.parametrize("arch", hemax.ARCHITECTURES)
def test_folding_the_norms_changes_nothing(arch):
    torch.manual_seed(1)
    model = hemax.build(arch).eval()
    for m in model.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.1), m.running_var.uniform_(0.5, 1.5)
    pixels = torch.randint(0, 255, (1, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        before = model(pixels)
        after = hemax.fold_norms(model)(pixels)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())
    assert torch.allclose(before.dense_logits, after.dense_logits, atol=1e-3, rtol=1e-3)
    assert torch.allclose(before.class_logits, after.class_logits, atol=1e-2, rtol=1e-2)


def test_the_papers_configuration_is_the_papers():
    cfg = hemax.ARCHITECTURES["hemax-r50"]
    assert (cfg.backbone, cfg.n_queries, cfg.d_model, cfg.heads) == ("resnet50", 10, 256, 8)
    assert (cfg.encoder_layers, cfg.decoder_layers, cfg.hidden, cfg.memory_stride) == (6, 6, 2048, 32)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(0, 4), st.integers(0, 1000))
def test_matching_is_the_cheapest_of_all_assignments(queries, cells, seed):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(queries, K + 1, generator=g)
    boxes = torch.rand(queries, 4, generator=g) * 40 + 10
    t = targets_of(
        (torch.rand(cells, 4, generator=g) * 40 + 10).tolist(), torch.randint(0, K, (cells,), generator=g).tolist()
    )
    rows, columns = match(logits, boxes, t)
    assert len(rows) == len(columns) == min(queries, cells)

    def cost(pairs):
        total = 0.0
        for r, c in pairs:
            p = logits.softmax(-1)[r, :-1][t.allowed[c]].sum()
            l1 = (boxes[r] - t.boxes_cxcywh[c]).abs().sum() / hemax.BOX_UNIT_PX
            giou = generalised_iou(to_xyxy(boxes[r]), to_xyxy(t.boxes_cxcywh[c]))
            total += float(-CLASS_COST * p + L1_COST * l1 - GIOU_COST * giou)
        return total

    small, large = min(queries, cells), max(queries, cells)
    every = (
        zip(range(queries), p, strict=False) if queries <= cells else zip(p, range(cells), strict=False)
        for p in itertools.permutations(range(large), small)
    )
    best = min((cost(list(p)) for p in every), default=0.0)
    assert cost(zip(rows.tolist(), columns.tolist(), strict=True)) == pytest.approx(best, abs=1e-3)


def test_generalised_iou_of_equal_and_of_distant_boxes():
    a = torch.tensor([[0.0, 0, 10, 10]])
    assert generalised_iou(a, a).item() == pytest.approx(1)
    assert generalised_iou(a, torch.tensor([[30.0, 0, 40, 10]])).item() == pytest.approx(-0.5)  # hull 400, union 200


def test_a_partial_label_costs_the_sum_of_what_it_allows():
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    p = logits.softmax(-1)[0]
    both = criterion.partial_cross_entropy(logits, torch.tensor([[True, True, False]]))
    s = criterion.LABEL_SMOOTHING
    assert both.item() == pytest.approx((1 - s) * -(p[0] + p[1]).log().item() - s * p.log().mean().item(), abs=1e-5)
    anything = criterion.partial_cross_entropy(logits, torch.tensor([[True, True, True]]))
    assert anything.item() == pytest.approx(-s * p.log().mean().item(), abs=1e-5)


def test_unknown_attributes_and_ignored_neighbours_teach_nothing(network):
    pixels = torch.randint(0, 255, (1, 3, 64, 64), dtype=torch.uint8)
    output = network(pixels)
    unknown = targets_of([[32, 32, 30, 30]], [3])
    assert criterion.criterion(output, [unknown])["attribute"].item() == 0
    known = targets_of([[32, 32, 30, 30]], [3], states=[[1, -1, -1, -1]])
    assert criterion.criterion(output, [known])["attribute"].item() > 0

    empty = targets_of([], [])
    everywhere = targets_of([], [])
    everywhere.ignore[:] = True
    plain, ignored = criterion.criterion(output, [empty]), criterion.criterion(output, [everywhere])
    assert plain["class"].item() > 0 and ignored["class"].item() == 0
    assert plain["heat"].item() > 0 and ignored["heat"].item() == 0


def test_a_nominal_box_teaches_no_extent(network):
    output = network(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    t = targets_of([[32, 32, 30, 30]], [3])
    t.box_weight[:] = 0
    losses = criterion.criterion(output, [t])
    assert losses["l1"].item() == losses["giou"].item() == losses["projection"].item() == 0


def test_the_mask_follows_its_truth_when_only_masks_are_learnt():
    logits = torch.zeros(1, 2, 8, 8, requires_grad=True)
    truth = torch.zeros(1, 16, 16, dtype=torch.uint8)
    truth[:, 4:12, 4:12], truth[:, 6:10, 6:10] = 1, 2
    t = targets_of([[16, 16, 16, 16]], [0], size=32)
    t.masks, t.mask_weight = truth, torch.ones(1)
    step = torch.optim.Adam([logits], 0.5)
    for _ in range(60):
        step.zero_grad()
        sum(criterion._mask_losses(logits, t, (torch.tensor([0]), torch.tensor([0]))).values()).backward()
        step.step()
    found = torch.nn.functional.interpolate(logits, scale_factor=2, mode="bilinear")[0] > 0
    assert (found[1] == (truth[0] > 0)).float().mean() > 0.97
    assert (found[0] == (truth[0] == 2)).float().mean() > 0.97


# --- checkpoints -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    checkpoint.save(network, path, mpp=0.12, patch_px=128, temperature=1.0, min_confidence=0.5, trained={}, metrics={})
    return path


def test_a_checkpoint_comes_back_within_half_precision(saved, network):
    model, card = checkpoint.load(saved)
    assert (card.arch, card.mpp, card.patch_px) == ("hemax-s", 0.12, 128)
    for (name, a), b in zip(network.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.allclose(a.float(), b.float(), atol=2e-3, rtol=2e-3), name


def test_damage_anywhere_is_found(saved, tmp_path):
    raw = saved.read_bytes()
    for at in (100, len(raw) // 2, len(raw) - 1):
        bad = tmp_path / f"{at}.safetensors"
        bad.write_bytes(raw[:at] + bytes([raw[at] ^ 0xFF]) + raw[at + 1 :])
        with pytest.raises(WeightsError, match=str(at)):
            checkpoint.load(bad)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(WeightsError, match="damaged"):
        checkpoint.read_card(cut)


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\xff" * 64])
def test_what_is_no_checkpoint_is_refused(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="x.safetensors"):
        checkpoint.read_card(path)


def test_missing_weights_and_another_vocabulary_are_refused(saved, tmp_path, monkeypatch):
    with pytest.raises(WeightsError, match="no such weights"):
        checkpoint.read_card(tmp_path / "none.safetensors")
    other = tmp_path / "other.safetensors"
    other.write_bytes(saved.read_bytes())
    monkeypatch.setattr(vocabulary, "fingerprint", lambda: "f" * 64)
    with pytest.raises(WeightsError, match="vocabulary"):
        checkpoint.read_card(other)


def test_the_shipped_weights_are_sound_and_small():
    card = checkpoint.read_card()
    assert card.arch == "hemax-s" and checkpoint.SHIPPED.stat().st_size <= 25e6
    assert " train " in card.trained["command"] and card.metrics["all"]["recall"]["value"] > 0.95


# --- predictor ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def predictor():
    return Predictor.load()


@pytest.fixture(scope="module")
def patches(predictor):
    """Four synthetic cells, one a patch."""
    from hemax_batch.smear import draw_cell_patch

    size, mpp = predictor.card.patch_px, predictor.card.mpp
    drawn = [draw_cell_patch(np.random.default_rng(i), "segmented_neutrophil", size, mpp) for i in range(4)]
    pixels = np.stack([rgb.transpose(2, 0, 1) for rgb, _ in drawn])
    return PatchBatch(pixels, np.arange(8).reshape(4, 2) * 1000.0, 1.2), [cells for _, cells in drawn]


def test_cells_do_not_depend_on_the_batch(predictor, patches):
    batch, _ = patches
    together = predictor(batch, 0.1)
    for i in range(len(batch)):
        alone = predictor(PatchBatch(batch.pixels[i : i + 1], batch.origins[i : i + 1], batch.scale), 0.1)
        mine = together.cells.take(together.patch_index == i)
        assert np.array_equal(mine.boxes_xyxy, alone.cells.boxes_xyxy)
        assert np.array_equal(mine.class_probs, alone.cells.class_probs)
        assert mine.masks == alone.cells.masks and mine.pictures == alone.cells.pictures


def test_boxes_are_the_masks_extent_and_probabilities_sum_to_one(predictor, patches):
    cells = predictor(patches[0], 0.1).cells
    assert len(cells) >= 3
    assert np.allclose(cells.class_probs.sum(1), 1, atol=1e-4)
    for part in vocabulary.attribute_slices().values():
        assert np.allclose(cells.attribute_probs[:, part].sum(1), 1, atol=1e-4)
    for box, (x, y), hw, packed in zip(cells.boxes_xyxy, cells.mask_xy, cells.mask_hw, cells.masks, strict=True):
        mask = unpack_mask(packed, hw)
        assert box.tolist() == [x, y, x + mask.shape[1], y + mask.shape[0]]
        assert mask[0].any() and mask[-1].any() and mask[:, 0].any() and mask[:, -1].any()


def test_a_drawn_cell_is_found_where_it_was_drawn(predictor, patches):
    batch, truth = patches
    prediction = predictor(batch, 0.1)
    found = 0
    for i, cells in enumerate(truth):
        for c in (c for c in cells if c.class_name != "platelet"):
            middle = (np.asarray(c.box_xyxy).reshape(2, 2).mean(0)) * batch.scale + batch.origins[i]
            boxes = prediction.cells.boxes_xyxy[prediction.patch_index == i]
            found += any(b[0] < middle[0] < b[2] and b[1] < middle[1] < b[3] for b in boxes)
    assert found >= 3


def test_only_the_masks_of_sure_queries_come_back(predictor, patches):
    pixels = patches[0].pixels[:2]
    answer = TorchNetwork(predictor.model)(pixels)
    with torch.inference_mode():
        output = predictor.model(torch.from_numpy(pixels))
    assert 2 <= answer.sure.sum() < answer.sure.size
    assert np.array_equal(answer.sure, output.class_logits[-1].softmax(-1)[..., -1].numpy() <= 0.5)
    assert np.array_equal(answer.mask_logits, output.mask_logits.numpy()[answer.sure])
    assert np.array_equal(answer.class_logits, output.class_logits[-1].numpy())
    assert answer.looks.shape == (2, 112, 20, 20)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_sees_the_same_cells(predictor, patches):
    here = predictor(patches[0], 0.1)
    there = Predictor.load(device="cuda")(patches[0], 0.1)
    assert np.array_equal(here.patch_index, there.patch_index)
    assert np.array_equal(here.cells.class_probs.argmax(1), there.cells.class_probs.argmax(1))
    assert np.abs(here.cells.class_probs - there.cells.class_probs).max() < 0.1  # bfloat16
    assert np.abs(here.cells.boxes_xyxy - there.cells.boxes_xyxy).max() <= 4


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9))
def test_sampling_a_map_is_grid_sample(seed, height, width):
    rng = np.random.default_rng(seed)
    maps = rng.normal(size=(2, height, width)).astype(np.float32)
    xs, ys = rng.uniform(-2, width + 2, 7), rng.uniform(-2, height + 2, 5)
    grid = np.stack(np.broadcast_arrays(xs / width * 2 - 1, (ys / height * 2 - 1)[:, None]), -1).astype(np.float32)
    expected = F.grid_sample(
        torch.from_numpy(maps)[None], torch.from_numpy(grid)[None], padding_mode="border", align_corners=False
    )
    assert np.abs(sample_at(maps, xs, ys) - expected[0].numpy()).max() < 1e-4


def test_no_patches_give_no_cells(predictor):
    size = predictor.card.patch_px
    nothing = predictor(PatchBatch(np.zeros((0, 3, size, size), np.uint8), np.zeros((0, 2)), 1.0), 0.1)
    assert len(nothing.cells) == 0 and len(nothing.cut) == 0
    blank = predictor(PatchBatch(np.full((1, 3, size, size), 244, np.uint8), np.zeros((1, 2)), 1.0), 0.1)
    assert len(blank.cells) == 0 and not blank.saturated[0]
