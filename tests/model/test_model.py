"""HemaX: shapes, laws, the matcher and losses against slow references, checkpoints that are refused, predictions that
do not depend on the batch."""

import copy
import hashlib
import itertools
import json

import numpy as np
import pytest
import reference_losses
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from hemax_batch import vocabulary
from hemax_batch.errors import WeightsError
from hemax_batch.mask_packing import unpack_mask
from hemax_batch.model import checkpoint, heads, hemax, losses
from hemax_batch.model.backbone import SameConv
from hemax_batch.model.engines.torch_engine import TorchEngine
from hemax_batch.model.mask_drawing import sample_bilinear
from hemax_batch.model.matcher import (
    CLASS_COST,
    GIOU_COST,
    L1_COST,
    Targets,
    generalised_iou,
    match,
    to_xyxy,
)
from hemax_batch.model.predictor import Predictor
from hemax_batch.records import PatchBatch

K, A = vocabulary.N_CLASSES, vocabulary.N_ATTRIBUTE_STATES


def targets_of(boxes, classes, size=64, states=None):
    """One patch's targets: boxes cxcywh in px, a class or a tuple of classes a box; padded when there is none."""
    n, rows = len(boxes), max(len(boxes), 1)
    allowed = torch.zeros(1, rows, K, dtype=torch.bool)
    for i, c in enumerate(classes):
        allowed[0, i, list(c) if isinstance(c, tuple) else c] = True
    present = torch.arange(rows)[None] < n
    attributes = (
        torch.full((1, rows, len(vocabulary.ATTRIBUTES)), -1)
        if states is None
        else torch.tensor([states])
    )
    return Targets(
        present,
        torch.tensor(boxes or [[0.5, 0.5, 1, 1]], dtype=torch.float32)[None],
        present.float(),
        allowed,
        attributes,
        torch.full((1, rows), -1),
        torch.zeros(1, size // 2, size // 2, dtype=torch.uint8),
        torch.zeros(1, rows),
        torch.zeros(1, size // 8, size // 8, dtype=torch.bool),
    )


def random_targets(seed, cells, spare=0, size=64):
    """A batch of `len(cells)` patches, patch b of cells[b] cells; partial labels, nominal boxes, missing masks."""
    rng = np.random.default_rng(seed)
    b, n = len(cells), max([*cells, 1]) + spare
    present = np.arange(n) < np.array(cells)[:, None]
    present = rng.permuted(present, axis=1)
    xyxy = (
        np.sort(rng.integers(0, size * 8 + 1, (b, n, 2, 2)), 2).reshape(b, n, 4) / 8
    )  # exact as centre and size
    xyxy[..., 2:] += 8
    cxcywh = np.concatenate(
        [(xyxy[..., :2] + xyxy[..., 2:]) / 2, xyxy[..., 2:] - xyxy[..., :2]], -1
    )
    cxcywh[~present] = [0.5, 0.5, 1, 1]
    allowed = rng.random((b, n, K)) < rng.choice([0.1, 0.5, 1.0], (b, n, 1))
    allowed[..., 0] |= ~allowed.any(-1)
    states = [rng.integers(-1, len(a.states), (b, n)) for a in vocabulary.ATTRIBUTES]
    masked = rng.choice([0.0, 0.5, 1.0], (b, n), p=[0.2, 0.3, 0.5]) * present
    arrays = (
        present,
        cxcywh.astype(np.float32),
        (rng.choice([0.0, 0.5, 1.0], (b, n)) * present).astype(np.float32),
        allowed,
        np.stack(states, -1),
        rng.integers(-1, 2, (b, n)),
        rng.integers(0, 3, (b, size // 2, size // 2), np.uint8),
        masked.astype(np.float32),
        rng.random((b, size // 8, size // 8)) < 0.4,
    )
    return Targets(*map(torch.from_numpy, arrays))


def random_output(seed, batch, queries=4, layers=2, size=64, dtype=torch.float32):
    """An output as a network might give it; its tensors are leaves that take gradients."""
    g = torch.Generator().manual_seed(seed)

    def leaf(*shape, scale=2.0, low=0.0):
        return (torch.randn(shape, generator=g) * scale + low).to(dtype).requires_grad_()

    boxes = [
        (torch.rand(*s, 4, generator=g) * size * 1.2 - 4).clamp(min=-2).to(dtype).requires_grad_()
        for s in ((layers, batch, queries), (batch, queries))
    ]
    return hemax.HemaXOutput(
        leaf(layers, batch, queries, K + 1),
        boxes[0],
        leaf(layers, batch, queries, A),
        leaf(batch, queries, 2, size // 4, size // 4),
        leaf(batch, 2, size // 4, size // 4),
        leaf(batch, size // 8, size // 8, low=-2.0),
        boxes[1],
    )


def loss_and_gradients(terms, output):
    sum(terms.values()).backward()
    values = {k: v.item() for k, v in terms.items()}
    unused = torch.zeros(())  # the slow criterion never looks at what no cell asks about
    return values, {
        k: unused if v.grad is None else v.grad.float() for k, v in vars(output).items()
    }


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
        after = hemax.fold_batch_norms(model)(pixels)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())
    assert torch.allclose(before.dense_logits, after.dense_logits, atol=1e-3, rtol=1e-3)
    assert torch.allclose(before.class_logits, after.class_logits, atol=1e-2, rtol=1e-2)


def test_the_papers_configuration_is_the_papers():
    cfg = hemax.ARCHITECTURES["hemax-r50"]
    assert (cfg.backbone, cfg.n_queries, cfg.d_model, cfg.heads) == ("resnet50", 10, 256, 8)
    assert (cfg.encoder_layers, cfg.decoder_layers, cfg.hidden, cfg.memory_stride) == (
        6,
        6,
        2048,
        32,
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(0, 4), st.integers(0, 1000))
def test_matching_is_the_cheapest_of_all_assignments(queries, cells, seed):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(queries, K + 1, generator=g)
    boxes = torch.rand(queries, 4, generator=g) * 40 + 10
    t = targets_of(
        (torch.rand(cells, 4, generator=g) * 40 + 10).tolist(),
        torch.randint(0, K, (cells,), generator=g).tolist(),
    )
    query = match(logits[None, None], boxes[None, None], t)[0, 0]
    columns = (query >= 0).nonzero()[:, 0]
    rows = query[columns]
    assert len(rows) == len(rows.unique()) == min(queries, cells)

    def cost(pairs):
        total = 0.0
        for r, c in pairs:
            p = logits.softmax(-1)[r, :-1][t.allowed[0, c]].sum()
            l1 = (boxes[r] - t.boxes_cxcywh[0, c]).abs().sum() / hemax.BOX_UNIT_PX
            giou = generalised_iou(to_xyxy(boxes[r]), to_xyxy(t.boxes_cxcywh[0, c]))
            total += float(-CLASS_COST * p + L1_COST * l1 - GIOU_COST * giou)
        return total

    small, large = min(queries, cells), max(queries, cells)
    every = (
        zip(range(queries), p, strict=False)
        if queries <= cells
        else zip(p, range(cells), strict=False)
        for p in itertools.permutations(range(large), small)
    )
    best = min((cost(list(p)) for p in every), default=0.0)
    assert cost(zip(rows.tolist(), columns.tolist(), strict=True)) == pytest.approx(best, abs=1e-3)


def test_generalised_iou_of_equal_and_of_distant_boxes():
    a = torch.tensor([[0.0, 0, 10, 10]])
    assert generalised_iou(a, a).item() == pytest.approx(1)
    assert generalised_iou(a, torch.tensor([[30.0, 0, 40, 10]])).item() == pytest.approx(
        -0.5
    )  # hull 400, union 200


def test_a_partial_label_costs_the_sum_of_what_it_allows():
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    p = logits.softmax(-1)[0]
    both = losses.partial_cross_entropy(logits, torch.tensor([[True, True, False]]))
    s = losses.LABEL_SMOOTHING
    assert both.item() == pytest.approx(-(p[0] + p[1]).log().item(), abs=1e-5)
    one = losses.partial_cross_entropy(logits, torch.tensor([[True, False, False]]))
    assert one.item() == pytest.approx(
        (1 - s) * -p[0].log().item() - s * p.log().mean().item(), abs=1e-5
    )
    anything = losses.partial_cross_entropy(logits, torch.tensor([[True, True, True]]))
    assert anything.item() == pytest.approx(0, abs=1e-6)


def test_unknown_attributes_and_ignored_neighbours_teach_nothing(network):
    pixels = torch.randint(0, 255, (1, 3, 64, 64), dtype=torch.uint8)
    output = network(pixels)
    unknown = targets_of([[32, 32, 30, 30]], [3])
    assert losses.criterion(output, unknown)["attribute"].item() == 0
    known = targets_of([[32, 32, 30, 30]], [3], states=[[1, -1, -1, -1]])
    assert losses.criterion(output, known)["attribute"].item() > 0

    empty = targets_of([], [])
    everywhere = targets_of([], [])
    everywhere.ignore[:] = True
    plain, ignored = losses.criterion(output, empty), losses.criterion(output, everywhere)
    assert plain["class"].item() > 0 and ignored["class"].item() == 0
    assert plain["heat"].item() > 0 and ignored["heat"].item() == 0


def test_a_nominal_box_teaches_no_extent(network):
    output = network(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    t = targets_of([[32, 32, 30, 30]], [3])
    t.box_weight[:] = 0
    terms = losses.criterion(output, t)
    assert terms["l1"].item() == terms["giou"].item() == terms["projection"].item() == 0


def test_the_mask_follows_its_truth_when_only_masks_are_learnt():
    logits = torch.zeros(1, 1, 2, 8, 8, requires_grad=True)
    truth = torch.zeros(1, 16, 16, dtype=torch.uint8)
    truth[:, 4:12, 4:12], truth[:, 6:10, 6:10] = 1, 2
    t = targets_of([[16, 16, 16, 16]], [0], size=32)
    t.labels, t.mask_weight = truth, torch.ones(1, 1)
    step = torch.optim.Adam([logits], 0.5)
    for _ in range(60):
        step.zero_grad()
        sum(
            losses._mask_losses(logits, t.masks(), t, torch.zeros(1, 1, dtype=torch.long)).values()
        ).backward()
        step.step()
    found = torch.nn.functional.interpolate(logits[0], scale_factor=2, mode="bilinear")[0] > 0
    assert (found[1] == (truth[0] > 0)).float().mean() > 0.97
    assert (found[0] == (truth[0] == 2)).float().mean() > 0.97


@pytest.mark.parametrize("judged", (0, 1))
def test_a_nucleus_takes_the_size_that_people_judged_and_the_outline_stays(judged):
    logits = torch.full((1, 1, 2, 8, 8), -6.0)
    logits[..., 1, 1:7, 1:7] = 6.0
    logits[..., 0, 1:7, 1:7] = -2.0 if judged else 2.0  # more or less all cytoplasm, or all nucleus
    logits.requires_grad_()
    t = targets_of([[16, 16, 24, 24]], [0], size=32)
    before = logits[0, 0, 1].detach().clone()
    step = torch.optim.SGD([logits], 3.0)
    for nc_class in (-1, judged):
        t.nc_class[:] = nc_class
        for _ in range(60):
            step.zero_grad()
            losses._nc_loss(logits, t, torch.zeros(1, 1, dtype=torch.long)).backward()
            step.step()
        nucleus, cell = logits[0, 0].sigmoid()
        fraction = ((nucleus * cell).sum() / cell.sum()).item()
        assert (fraction > losses.NC_THRESHOLD) == (
            bool(judged) if nc_class == judged else not judged
        )
    assert torch.equal(logits[0, 0, 1], before)


CELLS = st.lists(st.integers(0, 6), min_size=1, max_size=4)  # up to two more than there are queries


@pytest.mark.slow
@settings(max_examples=40)
@given(st.integers(0, 10**6), CELLS, st.integers(0, 3))
def test_the_batched_criterion_is_the_slow_one(seed, cells, spare):
    targets = random_targets(seed, cells, spare)
    fast, slow = (random_output(seed, len(cells)) for _ in range(2))
    values, gradients = loss_and_gradients(losses.criterion(fast, targets), fast)
    expected, slow_gradients = loss_and_gradients(
        reference_losses.criterion(slow, reference_losses.patches_of(targets)), slow
    )
    assert values == pytest.approx(expected, rel=1e-4, abs=1e-5)
    for name, gradient in slow_gradients.items():
        assert torch.allclose(gradients[name], gradient, rtol=1e-3, atol=1e-5), name


@settings(max_examples=20)
@given(st.integers(0, 10**6), CELLS)
def test_each_layer_and_patch_is_matched_as_alone(seed, cells):
    targets, output = random_targets(seed, cells), random_output(seed, len(cells))
    query = match(output.class_logits, output.boxes_cxcywh, targets)
    assert (query[:, ~targets.present] == -1).all()
    for b, patch in enumerate(reference_losses.patches_of(targets)):
        for layer in range(len(query)):
            rows, columns = reference_losses.match(
                output.class_logits[layer, b], output.boxes_cxcywh[layer, b], patch
            )
            expected = torch.full((cells[b],), -1).scatter(0, columns, rows)
            assert query[layer, b, targets.present[b]].tolist() == expected.tolist()


@settings(max_examples=10)
@given(st.integers(0, 10**6), CELLS)
def test_what_padding_says_changes_nothing(seed, cells):
    targets, output = random_targets(seed, cells, spare=2), random_output(seed, len(cells))
    before = losses.criterion(output, targets)
    targets.boxes_cxcywh[~targets.present] = 1e30
    targets.allowed[~targets.present] = False
    targets.attributes[~targets.present] = 0
    targets.nc_class[~targets.present] = 1
    after, _ = loss_and_gradients(losses.criterion(output, targets), output)
    assert after == {k: v.item() for k, v in before.items()}
    assert all(v.grad.isfinite().all() for v in vars(output).values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cells", [[0], [0, 0, 0], [3, 0, 6]])
def test_losses_and_gradients_are_finite_in_either_precision(dtype, cells):
    targets, output = random_targets(3, cells), random_output(3, len(cells), dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        terms = losses.criterion(output, targets)
    whole = hemax.HemaXOutput(*(v.detach().float() for v in vars(output).values()))
    expected = {k: v.item() for k, v in losses.criterion(whole, targets).items()}
    assert all(v.dtype == torch.float32 for v in terms.values())
    values, gradients = loss_and_gradients(terms, output)
    assert values == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(list(values.values())).all()
    assert all(g.isfinite().all() for g in gradients.values())
    if not any(cells):
        assert {k for k, v in values.items() if v} == {"class", "dense", "heat"}


def test_an_output_that_is_no_number_is_still_matched():
    targets, output = random_targets(1, [3, 2]), random_output(1, 2)
    broken = output.boxes_cxcywh.detach().clone()
    broken[0, 0, 1], broken[1] = torch.nan, torch.inf
    query = match(output.class_logits, broken, targets)
    assert ((query >= 0) == targets.present).all()


def test_the_host_waits_for_the_device_once_a_step(monkeypatch):
    """Tensors on "meta" have no values: whatever asked for one, or mixed devices, would raise."""
    targets, output = random_targets(5, [3, 0, 6]), random_output(5, 3)
    query, copies = match(output.class_logits, output.boxes_cxcywh, targets), []
    cpu = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: copies.append(self.shape) or cpu(self))
    losses.criterion(output, targets)
    assert copies == [(2, 3, 4, 6)]
    monkeypatch.setattr(losses, "match", lambda *_: query.to("meta"))
    elsewhere = hemax.HemaXOutput(
        *(v.detach().to("meta").requires_grad_() for v in vars(output).values())
    )
    terms = losses.criterion(elsewhere, targets.to("meta"))
    sum(terms.values()).backward()
    assert {v.device.type for v in terms.values()} == {"meta"}


def test_a_cells_own_mask_ends_with_its_box():
    t = targets_of([[15, 16, 10, 8], [15, 16, 10, 8]], [0, 0], size=32)
    t.labels[:], t.mask_weight = 1, torch.tensor([[1.0, 0.0]])
    with_mask, without = t.masks()[0]
    assert with_mask.any(0).nonzero()[:, 0].tolist() == list(range(4, 11))  # x 10..20
    assert with_mask.any(1).nonzero()[:, 0].tolist() == list(range(5, 11))  # y 12..20
    assert not without.any()


# --- colours -----------------------------------------------------------------------------------------------------


def painted(nucleus, cytoplasm, outside, size=128):
    """A round cell of 80 px with its nucleus of 40 in the middle: pixels [1, 3, S, S], mask logits [1, 1, 2, S/4, S/4], its box."""
    ys, xs = torch.meshgrid(*(torch.arange(n) + 0.5 for n in (size, size)), indexing="ij")
    away = torch.hypot(xs - size / 2, ys - size / 2)
    inside = [(away < reach)[None, None] for reach in (40, 20)]
    colour = [
        torch.tensor(c, dtype=torch.float32)[None, :, None, None]
        for c in (outside, cytoplasm, nucleus)
    ]
    pixels = torch.where(inside[1], colour[2], torch.where(inside[0], colour[1], colour[0]))
    masks = torch.stack([away < 20, away < 40])[None, None, :, ::4, ::4].float() * 16 - 8
    return pixels, masks, torch.tensor([[[size / 2, size / 2, 80.0, 80.0]]])


def test_the_colours_are_the_optical_densities_of_nucleus_cytoplasm_and_surroundings():
    parts = ((90, 40, 130), (150, 160, 210), (225, 190, 195))
    pixels, masks, box = painted(*parts)
    colours = heads.CytoplasmColourHead.colour_features(pixels, masks, box)
    mean, spread = colours[0, 0].unflatten(-1, (3, 2, 3)).unbind(1)
    assert torch.allclose(
        mean, torch.log10(256 / (torch.tensor(parts).float() + 1)), atol=0.08
    )  # edges are of both
    assert (spread < 0.2).all()
    pixels[:, :, :, :4] = 0  # further than half the cell's width from it
    assert torch.equal(heads.CytoplasmColourHead.colour_features(pixels, masks, box), colours)
    assert torch.isfinite(
        heads.CytoplasmColourHead.colour_features(pixels.zero_(), masks * 0 - 8, box * 0 - 500)
    ).all()  # a box in nothing


@pytest.mark.slow
def test_cytoplasm_colour_is_read_from_the_cells_colours_and_nothing_else_is(patches):
    network, pixels = hemax.build("hemax-m").eval(), torch.from_numpy(patches[0].pixels)
    colour = torch.zeros(vocabulary.N_ATTRIBUTE_STATES, dtype=torch.bool)
    colour[heads.COLOUR_STATES] = True
    with torch.no_grad():
        before = network(pixels)
        network.cytoplasm_colour_head.out.weight.normal_()
        tinted = network(pixels)
        network.attribute_head.weight.normal_()
        after = network(pixels)
    assert torch.equal(before.class_logits, tinted.class_logits) and torch.equal(
        before.mask_logits, tinted.mask_logits
    )
    assert torch.equal(before.attribute_logits[:-1], tinted.attribute_logits[:-1])
    assert torch.equal(
        before.attribute_logits[-1][..., ~colour], tinted.attribute_logits[-1][..., ~colour]
    )
    assert not torch.equal(
        before.attribute_logits[-1][..., colour], tinted.attribute_logits[-1][..., colour]
    )
    assert torch.equal(
        tinted.attribute_logits[-1][..., colour], after.attribute_logits[-1][..., colour]
    )
    network.train()(pixels).attribute_logits.sum().backward()
    assert (
        network.attribute_head.weight.grad[colour].any()
        and network.cytoplasm_colour_head.out.weight.grad is None
    )  # fitted apart


# --- checkpoints -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    checkpoint.save(
        network,
        path,
        mpp=0.12,
        patch_px=128,
        temperature=1.0,
        min_confidence=0.5,
        trained={},
        metrics={},
    )
    return path


def test_a_checkpoint_comes_back_within_half_precision(saved, network):
    model, card = checkpoint.load(saved)
    assert (card.arch, card.mpp, card.patch_px) == ("hemax-s", 0.12, 128)
    for (name, a), b in zip(network.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.allclose(a.float(), b.float(), atol=2e-3, rtol=2e-3), name


def test_another_architecture_begins_with_what_fits_it(saved, network):
    model, card = checkpoint.load(saved, arch_to_train="hemax-m")
    assert (model.cfg.arch, card.arch) == ("hemax-m", "hemax-s")
    fits, theirs = 0, network.state_dict()
    for name, tensor in model.state_dict().items():
        if name in theirs and theirs[name].shape == tensor.shape:
            assert torch.allclose(tensor.float(), theirs[name].float(), atol=2e-3, rtol=2e-3), name
            fits += tensor.numel()
    assert fits > 2e6  # all but backbone, laterals, roi_context and tint
    with pytest.raises(ValueError, match="hemax-r50"):
        checkpoint.load(saved, arch_to_train="hemax-x")


def test_weights_that_lack_a_part_are_refused_with_the_remedy_and_can_be_taught_it(
    network, tmp_path
):
    path, older = tmp_path / "older.safetensors", copy.deepcopy(network)
    older.cytoplasm_colour_head = None
    checkpoint.save(
        older,
        path,
        mpp=0.12,
        patch_px=128,
        temperature=1.0,
        min_confidence=0.5,
        trained={},
        metrics={},
    )
    with pytest.raises(
        WeightsError,
        match=r"(?s)older.safetensors: its tensors do not fit.*cytoplasm_colour_head.*train --from-weights",
    ):
        checkpoint.load(path)
    assert checkpoint.load(path, arch_to_train="hemax-s")[0].cytoplasm_colour_head is not None


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
    fewer = vocabulary.CLASS_NAMES[1:]  # the weights know a class that this vocabulary lacks
    monkeypatch.setattr(vocabulary, "fingerprint", lambda: "f" * 64)
    monkeypatch.setattr(vocabulary, "CLASS_NAMES", fewer)
    with pytest.raises(WeightsError, match="vocabulary"):
        checkpoint.read_card(other)


@pytest.mark.slow
def test_older_weights_never_call_a_class_that_they_lack(tmp_path):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(checkpoint.SHIPPED, "pt") as f:
        meta = dict(f.metadata())
    state = load_file(checkpoint.SHIPPED)
    classes = [n for n in vocabulary.CLASS_NAMES if n not in ("smudge", "plasma_cell")]
    own = json.loads(meta["classes"])
    rows = [own.index(n) if n in own else 0 for n in classes] + [len(own)]
    state |= {f"class_head.{p}": state[f"class_head.{p}"][rows] for p in ("weight", "bias")}
    meta |= {"classes": json.dumps(classes), "vocabulary": "of an older version"}
    path = tmp_path / "older.safetensors"
    save_file(state, path, metadata=meta)
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    save_file(state, path, metadata=meta | {"data_sha256": hashlib.sha256(raw[start:]).hexdigest()})
    model, card = checkpoint.load(path)
    assert card.unknown_classes == ("plasma_cell", "smudge")
    logits = model(torch.randint(0, 256, (1, 3, 128, 128), dtype=torch.uint8)).class_logits
    lacking = [vocabulary.CLASS_NAMES.index(n) for n in card.unknown_classes]
    assert logits.softmax(-1)[..., lacking].max() == 0


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
    from hemax_batch.synthetic import draw_cell_patch

    size, mpp = predictor.card.patch_px, predictor.card.mpp
    drawn = [
        draw_cell_patch(np.random.default_rng(i), "segmented_neutrophil", size, mpp)
        for i in range(4)
    ]
    pixels = np.stack([rgb.transpose(2, 0, 1) for rgb, _ in drawn])
    return PatchBatch(pixels, np.arange(8).reshape(4, 2) * 1000.0, 1.2), [
        cells for _, cells in drawn
    ]


@pytest.mark.slow
def test_cells_do_not_depend_on_the_batch(predictor, patches):
    batch, _ = patches
    together = predictor(batch, 0.1)
    for i in range(len(batch)):
        alone = predictor(
            PatchBatch(batch.pixels[i : i + 1], batch.origins[i : i + 1], batch.scale), 0.1
        )
        mine = together.cells.take(together.patch_index == i)
        assert np.array_equal(mine.boxes_xyxy, alone.cells.boxes_xyxy)
        assert np.array_equal(mine.class_probs, alone.cells.class_probs)
        assert mine.masks == alone.cells.masks and mine.pictures == alone.cells.pictures


@pytest.mark.slow
def test_boxes_are_the_masks_extent_and_probabilities_sum_to_one(predictor, patches):
    cells = predictor(patches[0], 0.1).cells
    assert len(cells) >= 3
    assert np.allclose(cells.class_probs.sum(1), 1, atol=1e-4)
    for part in vocabulary.attribute_slices().values():
        assert np.allclose(cells.attribute_probs[:, part].sum(1), 1, atol=1e-4)
    for box, (x, y), hw, packed in zip(
        cells.boxes_xyxy, cells.mask_xy, cells.mask_hw, cells.masks, strict=True
    ):
        mask = unpack_mask(packed, hw)
        assert box.tolist() == [x, y, x + mask.shape[1], y + mask.shape[0]]
        assert mask[0].any() and mask[-1].any() and mask[:, 0].any() and mask[:, -1].any()


@pytest.mark.slow
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


@pytest.mark.slow
def test_only_the_masks_of_sure_queries_come_back(predictor, patches):
    pixels = patches[0].pixels[:2]
    answer = TorchEngine(predictor.model)(pixels)
    with torch.inference_mode():
        output = predictor.model(torch.from_numpy(pixels))
    assert 2 <= answer.confident.sum() < answer.confident.size
    assert np.array_equal(
        answer.confident, output.class_logits[-1].softmax(-1)[..., -1].numpy() <= 0.5
    )
    assert np.array_equal(answer.mask_logits, output.mask_logits.numpy()[answer.confident])
    assert np.array_equal(answer.class_logits, output.class_logits[-1].numpy())
    assert answer.backbone_features.shape == (2, 112, 20, 20)


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
    grid = np.stack(
        np.broadcast_arrays(xs / width * 2 - 1, (ys / height * 2 - 1)[:, None]), -1
    ).astype(np.float32)
    expected = F.grid_sample(
        torch.from_numpy(maps)[None],
        torch.from_numpy(grid)[None],
        padding_mode="border",
        align_corners=False,
    )
    assert np.abs(sample_bilinear(maps, xs, ys) - expected[0].numpy()).max() < 1e-4


def test_no_patches_give_no_cells(predictor):
    size = predictor.card.patch_px
    nothing = predictor(
        PatchBatch(np.zeros((0, 3, size, size), np.uint8), np.zeros((0, 2)), 1.0), 0.1
    )
    assert len(nothing.cells) == 0 and len(nothing.cut) == 0
    blank = predictor(
        PatchBatch(np.full((1, 3, size, size), 244, np.uint8), np.zeros((1, 2)), 1.0), 0.1
    )
    assert len(blank.cells) == 0 and not blank.saturated[0]


def test_a_label_that_leaves_the_type_open_teaches_nothing_of_it():
    """Smoothing such a label taught one laboratory's cells, of which no type was known, to be of every type alike."""
    logits = torch.randn(1, K + 1, requires_grad=True)
    allowed = torch.zeros(1, K + 1, dtype=torch.bool)
    allowed[:, :10] = True
    losses.partial_cross_entropy(logits, allowed).sum().backward()
    p = logits.detach().softmax(-1)[0, :10]
    # among those allowed the gradient only follows what the network thinks already: no probability moves against another
    assert torch.allclose(
        logits.grad[0, :10] / p, (logits.grad[0, :10] / p)[0].expand(10), atol=1e-5
    )
    sure = torch.tensor([[30.0, *[-30.0] * K]])
    exact = torch.zeros(1, K + 1, dtype=torch.bool)
    exact[:, 0] = True
    assert (
        losses.partial_cross_entropy(sure, exact) > 0.1
        and losses.partial_cross_entropy(sure, allowed) < 1e-4
    )


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 10), (9, 8), (7, 7), (32, 33)])
def test_the_backbone_s_convolutions_are_padded_as_tensorflow_pads(kernel, stride, size):
    conv, x = SameConv(4, 6, kernel, stride), torch.randn(2, 4, *size)
    short = [max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in size]
    padded = F.pad(x, [side for n in reversed(short) for side in (n // 2, n - n // 2)])
    expected = F.conv2d(padded, conv.weight, conv.bias, stride)
    assert conv(x).shape[-2:] == tuple(-(-n // stride) for n in size)
    assert torch.allclose(conv(x), expected, atol=1e-5)
