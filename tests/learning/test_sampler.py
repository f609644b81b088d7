"""Training patches: labels lie on their pixels whatever the turn, scale and split; pictures are resampled as Pillow
does; stain, JPEG and blur are what they are called; the same generator gives the same batch."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_images import write_layout
from PIL import Image
from scipy import ndimage

from hemax_batch.learning.data import augmentation, patch_rendering
from hemax_batch.learning.data.centred_patches import centred_patch
from hemax_batch.learning.data.examples import CellLabel, Example
from hemax_batch.learning.data.image_cache import IGNORE_BIT, load_images
from hemax_batch.learning.data.read_folder import read_folder
from hemax_batch.learning.data.sampler import DIHEDRAL, PatchSampler
from hemax_batch.model.losses import _dense_loss
from hemax_batch.model.mask_drawing import draw_mask

BLUE, SIZE = (40, 60, 200), (90, 120)  # height, width of the picture


@pytest.fixture
def one_cell(tmp_path):
    """A bright picture with one blue rectangle, its box, and a mask whose nucleus is the rectangle's left half."""
    rgb, mask = np.full((*SIZE, 3), 240, np.uint8), np.zeros(SIZE, np.uint8)
    rgb[30:50, 20:70], mask[30:50, 20:70], mask[30:50, 20:45] = BLUE, 1, 2
    Image.fromarray(rgb).save(tmp_path / "a.png")
    Image.fromarray(mask).save(tmp_path / "a_mask.png")
    cell = CellLabel((20, 30, 70, 50), ("blast",), (("granularity", "fine"),), nc_class="high")
    return Example(
        str(tmp_path / "a.png"), 0.12, "s", "train", (cell,), mask_path=str(tmp_path / "a_mask.png")
    )


@pytest.fixture
def plain_light(monkeypatch):
    """Stain, light and focus as they are."""
    monkeypatch.setattr(
        patch_rendering,
        "apply_photometry",
        lambda pixels, drawn, cells=None: pixels.round().to(torch.uint8),
    )


@pytest.mark.slow
@pytest.mark.parametrize("size", (96, 224, 320))
def test_boxes_and_labels_lie_on_their_pixels(one_cell, plain_light, size):
    patches = PatchSampler([one_cell], 0.12)
    for seed in range(4):
        pixels, targets = patches.batch(np.random.default_rng(seed), 6, size)
        blue = (pixels[:, 0] < 140).numpy()
        seen = 0
        for b in range(6):
            covered = np.zeros((size, size), bool)
            for n in torch.nonzero(targets.present[b]).flatten():
                cx, cy, w, h = targets.boxes_cxcywh[b, n].tolist()
                x0, y0, x1, y1 = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
                inside = np.s_[round(y0) : round(y1), round(x0) : round(x1)]
                assert blue[b][inside].mean() > 0.93
                labelled = targets.masks()[b, n].numpy()
                ys, xs = np.nonzero(labelled)
                assert abs(2 * xs.min() - x0) <= 3 and abs(2 * (ys.max() + 1) - y1) <= 3
                if min(x0, y0) > 1 and max(x1, y1) < size - 1:
                    assert targets.nc_class[b, n] == 1
                if (
                    min(x0, y0) > 1
                    and max(x1, y1) < size - 1
                    and not 0 < targets.present[b].sum() - 1
                ):
                    assert 0.4 < (labelled == 2).sum() / (labelled > 0).sum() < 0.6
                covered[inside] = True
                seen += 1
            ignored = targets.ignore[b].numpy().repeat(8, 0).repeat(8, 1)
            # what is blue, not taught and not ignored would be taught as background
            assert (
                blue[b] & ~ndimage.binary_dilation(covered, iterations=2) & ~ignored
            ).sum() < 12 * 8
        assert seen >= 3


def test_masks_are_read_where_training_puts_them(tmp_path, plain_light):
    """Logits that fit a disc's labels best are drawn on the disc, nucleus and cell: to a seventh of a pixel, on average."""
    y, x = np.mgrid[:96, :96] + 0.5
    r, size = np.hypot(x - 47.3, y - 48.6), 96
    rgb, mask = np.full((96, 96, 3), 240, np.uint8), (r < 24).astype(np.uint8) + (r < 13)
    rgb[r < 24] = BLUE
    Image.fromarray(rgb).save(tmp_path / "a.png")
    Image.fromarray(mask).save(tmp_path / "m.png")
    cell = CellLabel((23.0, 24.0, 72.0, 73.0), ("blast",))
    patches = PatchSampler(
        [
            Example(
                str(tmp_path / "a.png"),
                0.12,
                "s",
                "train",
                (cell,),
                mask_path=str(tmp_path / "m.png"),
            )
        ],
        0.12,
    )
    off = []
    for seed in range(24):
        pixels, targets = patches.batch(np.random.default_rng(seed), 1, size)
        blue = pixels[0, 0].numpy() < 140
        if targets.present.sum() != 1 or (blue[[0, -1]].any() or blue[:, [0, -1]].any()):
            continue  # one whole disc
        logits = torch.zeros(1, 2, size // 4, size // 4, requires_grad=True)
        optimiser = torch.optim.Adam([logits], 0.3)
        for _ in range(80):
            optimiser.zero_grad()
            _dense_loss(logits, targets.masks(), targets).backward()
            optimiser.step()
        drawn = draw_mask(
            logits.detach()[0].numpy(), (0.0, 0.0, size, size), np.zeros(2), 1.0, (size, size), None
        )
        off += [
            middle_of(part) + (drawn.x, drawn.y) - middle_of(blue)
            for part in (drawn.label > 0, drawn.label == 2)
        ]
    assert len(off) >= 8 and np.abs(np.mean(off, 0)).max() < 0.15


def middle_of(mask: np.ndarray) -> np.ndarray:
    """x, y"""
    return np.argwhere(mask).mean(0)[::-1] + 0.5


def test_a_batch_is_a_function_of_its_generator(tmp_path):
    patches = PatchSampler(read_folder(write_layout(tmp_path)), 0.12)
    (a, ta), (b, tb) = (patches.batch(np.random.default_rng(3), 4, 96) for _ in range(2))
    assert torch.equal(a, b) and all(
        torch.equal(x, y) for x, y in zip(vars(ta).values(), vars(tb).values(), strict=True)
    )
    c, _ = patches.batch(np.random.default_rng(4), 4, 96)
    assert not torch.equal(a, c) and a.dtype == torch.uint8 and a.shape == (4, 3, 96, 96)


def test_unknown_stays_unknown_and_padding_is_empty(one_cell, tmp_path):
    Image.fromarray(np.full((200, 200, 3), 240, np.uint8)).save(
        tmp_path / "b.png"
    )  # larger than any cell
    nothing = Example(str(tmp_path / "b.png"), 0.12, "t", "train", ())
    centre_only = Example(
        str(tmp_path / "b.png"),
        0.12,
        "u",
        "train",
        (CellLabel(None, ("blast", "lymphocyte")),),
        "anywhere",
    )
    _, t = PatchSampler([one_cell, nothing, centre_only], 0.12).batch(
        np.random.default_rng(0), 24, 192
    )
    assert not t.present.all() and t.present.any()
    for rows in (t.box_weight, t.mask_weight, t.allowed):
        assert not rows[~t.present].any()
    assert (t.attributes[~t.present] == -1).all() and (t.nc_class[~t.present] == -1).all()
    unsure = t.present & (t.allowed.sum(-1) == 2)
    assert unsure.any() and not t.box_weight[unsure].any() and not t.mask_weight[unsure].any()
    assert (t.attributes[unsure] == -1).all() and t.ignore[unsure.any(1)].any()


def test_the_eight_turns_are_all_different_and_keep_lengths():
    assert len({tuple(m.ravel()) for m in DIHEDRAL}) == 8
    assert all(np.array_equal(m @ m.T, np.eye(2)) for m in DIHEDRAL)


def test_an_unmoved_picture_is_itself_and_a_shrunk_one_as_pillow_shrinks(tmp_path):
    rgb = ndimage.gaussian_filter(np.random.default_rng(0).uniform(0, 255, (96, 96, 3)), (3, 3, 0))
    rgb = ((rgb - rgb.min()) / np.ptp(rgb) * 255).astype(np.uint8)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    gallery = load_images([Example(str(tmp_path / "a.png"), 0.12, "s", "train", ())], 0.12, "cpu")

    def drawn(scale):
        half = 48 - 48 * scale
        move = np.array([[scale, 0, half], [0, scale, half]])
        plan = patch_rendering.BatchPlan(
            96,
            np.full((1, 2), 48),
            np.zeros((1, 2), bool),
            np.zeros((1, 4), int),
            np.tile(move, (1, 4, 1, 1)),
            np.zeros((1, 4), bool),
            np.zeros((1, 0, 4)),
            {},
            None,
        )
        pixels, last = patch_rendering._gather_pixels(gallery, plan, torch.from_numpy)
        assert not last.any()
        return pixels[0].permute(1, 2, 0).round().numpy()

    assert np.array_equal(drawn(1.0), rgb)
    enlarged = Image.fromarray(rgb).resize((96, 96), Image.Resampling.BICUBIC, box=(12, 12, 84, 84))
    assert np.abs(drawn(0.75) - np.asarray(enlarged, float))[4:-4, 4:-4].max() <= 2


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 9), st.lists(st.integers(-40, 40), min_size=1))
def test_mirrored_indices_are_numpys_symmetric_padding(n, index):
    padded = np.pad(np.arange(n), 60, "symmetric")
    found = patch_rendering._mirror_index(torch.tensor(index), torch.tensor(n)).numpy()
    assert np.array_equal(found, padded[np.array(index) + 60])


def test_jpeg_here_is_pillows():
    y, x = np.mgrid[:64, :64]
    rgb = (
        np.stack([128 + 90 * np.sin(x / 5), 128 + 80 * np.cos(y / 7), 60 + x + y], -1)
        .clip(0, 255)
        .astype(np.uint8)
    )
    for quality in (40, 80):
        buffer = io.BytesIO()
        Image.fromarray(rgb).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
        theirs = np.asarray(Image.open(buffer), float)
        tensor = torch.from_numpy(rgb).permute(2, 0, 1)[None].float()
        ours = (
            augmentation._jpeg(tensor, torch.tensor([float(quality)]))[0]
            .permute(1, 2, 0)
            .clamp(0, 255)
            .numpy()
        )
        lost = np.abs(theirs - rgb).mean()
        assert np.abs(ours - theirs).mean() < 0.35 * lost + 0.6


def test_blur_here_is_scipys_and_each_patch_has_its_own():
    x = torch.from_numpy(
        np.random.default_rng(0).uniform(0, 255, (2, 3, 48, 48)).astype(np.float32)
    )
    found = augmentation._blur(x, torch.tensor([0.6, 1.5])).numpy()
    for patch, sigma, out in zip(x.numpy(), (0.6, 1.5), found, strict=True):
        slow = ndimage.gaussian_filter(
            patch, (0, sigma, sigma), mode="mirror", radius=augmentation._BLUR_REACH_PX
        )
        assert np.abs(out - slow).max() < 0.1


def test_without_change_the_stain_stays_and_white_stays_bright():
    x = torch.randint(0, 256, (2, 3, 64, 64)).float()
    same = augmentation.apply_photometry(
        x,
        augmentation.Photometry(
            np.tile(np.eye(3, dtype=np.float32), (2, 1, 1)),
            np.ones((2, 1), np.float32),
            np.zeros((2, 3), np.float32),
            np.zeros((2, 2), np.float32),
            {},
            np.zeros(2, np.float32),
            0,
            np.tile(np.eye(3, dtype=np.float32), (2, 1, 1)),
        ),
    )
    dark = augmentation.optical_density(x).flatten(2).quantile(0.08, 2) < 0.35
    assert torch.equal(same[dark].float(), x[dark])


def test_a_share_of_patches_keeps_its_own_stain_and_light():
    x = torch.randint(128, 256, (200, 3, 16, 16)).float()
    for share, low, high in ((0.0, 0.0, 0.0), (0.3, 0.2, 0.4), (1.0, 1.0, 1.0)):
        drawn = augmentation.draw_photometry(np.random.default_rng(0), len(x), as_stained=share)
        same = augmentation.apply_photometry(
            x, augmentation.Photometry(**{**vars(drawn), "degrading": {}})
        )
        assert low <= (same == x).flatten(1).all(1).float().mean() <= high


def test_every_degradation_is_drawn_and_leaves_the_others_alone():
    rng, kinds = np.random.default_rng(0), set()
    x = torch.full((32, 3, 64, 64), 180.0) + torch.randn(32, 3, 64, 64)
    for _ in range(4):
        drawn = augmentation.draw_photometry(rng, 32)
        kinds |= set(drawn.degrading)
        out = augmentation.apply_photometry(x, drawn)
        assert out.shape == x.shape and out.dtype == torch.uint8
        clean = augmentation.apply_photometry(
            x, augmentation.Photometry(**{**vars(drawn), "degrading": {}})
        )
        spoilt = (
            set(np.concatenate([*drawn.degrading.values()]).tolist()) if drawn.degrading else set()
        )
        assert all(torch.equal(out[b], clean[b]) for b in range(32) if b not in spoilt)
    assert kinds == {
        augmentation.BLUR,
        augmentation.COARSE,
        augmentation.JPEG,
        augmentation.NOISE,
        augmentation.SHARPEN,
    }


def test_red_cells_are_recoloured_apart_from_nuclei_and_labelled_cells():
    pixels = torch.full((1, 3, 64, 64), 230.0)
    pixels[0, :, 8:24, 8:24] = torch.tensor([215.0, 180.0, 190.0])[:, None, None]  # a red cell
    pixels[0, :, 30:44, 30:44] = torch.tensor([90.0, 60.0, 130.0])[:, None, None]  # a nucleus
    pixels[0, :, 44:60, 44:60] = torch.tensor([200.0, 190.0, 215.0])[:, None, None]  # cytoplasm
    cells = torch.zeros(1, 64, 64, dtype=torch.bool)
    cells[0, 44:60, 44:60] = True
    drawn = augmentation.draw_photometry(np.random.default_rng(0), 1, as_stained=1.0)
    blue = np.eye(3, dtype=np.float32)[None].copy()
    blue[0, 1, 0] = 1.0
    drawn = augmentation.Photometry(**{**vars(drawn), "degrading": {}, "red_cell_mix": blue})
    out = augmentation.apply_photometry(pixels, drawn, cells).float()
    plain = augmentation.apply_photometry(pixels, drawn).float()
    assert (plain[0, 0, 10:22, 10:22] - out[0, 0, 10:22, 10:22]).min() > 15
    assert (plain - out)[0, :, 32:42, 32:42].abs().max() <= 2
    assert (plain - out)[0, :, 46:58, 46:58].abs().max() <= 2


def test_what_may_be_an_unlabelled_cell_is_ignored(tmp_path, one_cell):
    stained = Example(one_cell.path, 0.12, "s", "train", (), "anywhere")
    packed = load_images([stained], 0.12, "cpu").packed
    assert bool((packed[:, 3] & IGNORE_BIT).all())
    assert not (load_images([one_cell], 0.12, "cpu").packed[:, 3] & IGNORE_BIT).any()


def test_a_centred_cell_is_in_the_middle_on_glass(one_cell):
    pixels, origin, scale = centred_patch(one_cell, 0.24, 64)
    blue = pixels[0] < 140
    ys, xs = np.nonzero(blue)
    assert scale == 0.5 and abs(xs.mean() + 0.5 - 32) <= 0.6 and abs(ys.mean() + 0.5 - 32) <= 0.6
    assert (pixels[:, 0, 0] == 240).all() and origin == (32 - 22, 32 - 20)
