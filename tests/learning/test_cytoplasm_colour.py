"""Cytoplasm colour is fitted to what the network's own masks part, and to nothing else."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from hemax_batch.learning.data.examples import CellLabel, Example
from hemax_batch.learning.training import cytoplasm_colour
from hemax_batch.learning.training.recipe import Recipe
from hemax_batch.model.heads import CytoplasmColourHead
from hemax_batch.vocabulary import N_CLASSES

RECIPE = Recipe(canvas_px=96, mpp=0.12, stain=0.5, seed=3)
#: Light blue with granules, as neutrophils have it: darker than the others, as it is in real pictures.
COLOURS = {"light_blue": (170, 100, 150), "blue": (130, 150, 215), "purple_blue": (165, 140, 205)}
GLASS, NUCLEUS = (235, 228, 230), (90, 40, 130)


class Found(torch.nn.Module):
    """A network that finds one round cell in the middle of each patch; none where a patch is black in its middle."""

    def __init__(self):
        super().__init__()
        self.cytoplasm_colour_head = CytoplasmColourHead()

    def forward(self, pixels):
        b, size = len(pixels), pixels.shape[-1]
        away = distance(size)[1::4, 1::4]
        masks = (
            torch.stack([away < 14, away < 30]).float()[None, None].repeat(b, 1, 1, 1, 1) * 16 - 8
        )
        logits = torch.zeros(1, b, 1, N_CLASSES + 1)
        logits[..., -1] = torch.where(pixels[:, 0, size // 2, size // 2] == 0, 20.0, -20.0)[:, None]
        return SimpleNamespace(
            class_logits=logits,
            mask_logits=masks,
            boxes_cxcywh=torch.tensor([size / 2, size / 2, 60, 60]).expand(1, b, 1, 4),
        )


def distance(size):
    at = torch.arange(size) + 0.5 - size / 2
    return torch.hypot(at[:, None], at)


def picture(path, cytoplasm, rng, nucleus=NUCLEUS):
    away = distance(96).numpy()[..., None]
    rgb = np.where(away < 14, nucleus, np.where(away < 30, cytoplasm, GLASS)) + rng.normal(
        0, 6, (96, 96, 3)
    )
    Image.fromarray(rgb.clip(0, 255).astype(np.uint8)).save(path)
    return str(path)


def labelled(path, *attributes, cells=1, box=(18.0, 18.0, 78.0, 78.0)):
    return Example(path, 0.12, "s", "train", (CellLabel(box, ("monocyte",), attributes),) * cells)


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("cells"), np.random.default_rng(0)
    return [
        labelled(picture(folder / f"{name}{i}.png", colour, rng), ("cytoplasm_colour", name))
        for i in range(12)
        for name, colour in COLOURS.items()
    ]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(cytoplasm_colour, "EPOCHS", 500)


def fitted(examples, recipe=RECIPE):
    torch.manual_seed(1)
    network, told = Found(), []
    cytoplasm_colour.fit_cytoplasm_colour(network, examples, recipe, told.append)
    return network, told


@pytest.mark.slow
def test_the_colours_of_cells_are_learnt_and_told_again_to_the_bit(examples, tmp_path):
    network, told = fitted(examples)
    assert told[0].startswith(
        f"cytoplasm colour: fitted to {len(examples) * cytoplasm_colour.REPEATS} measurements"
    )
    rng = np.random.default_rng(9)
    new = [
        labelled(picture(tmp_path / f"{name}.png", colour, rng), ("cytoplasm_colour", name))
        for name, colour in COLOURS.items()
    ]
    colours, states = cytoplasm_colour._measure_colours(
        network, cytoplasm_colour._cells_with_colour(new), RECIPE
    )
    assert len(states) == 3 * cytoplasm_colour.REPEATS
    assert (
        network.cytoplasm_colour_head.classify(colours).argmax(1) == states
    ).float().mean() > 0.9
    assert paled(network, colours) > 0.9
    again = fitted(examples)[0].cytoplasm_colour_head.state_dict()
    assert all(
        torch.equal(again[name], value)
        for name, value in network.cytoplasm_colour_head.state_dict().items()
    )
    other = fitted(examples, Recipe(**{**vars(RECIPE), "seed": 4}))[
        0
    ].cytoplasm_colour_head.state_dict()
    assert not torch.equal(other["out.weight"], again["out.weight"])
    torch.manual_seed(5)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    cytoplasm_colour.fit_cytoplasm_colour(network, examples[:3], RECIPE, told.append)
    assert torch.equal(torch.rand(1), drawn)  # what is drawn afterwards does not depend on it


def paled(network, colours):
    """Share of cells whose cytoplasm is called light blue at an optical density of 0.06, paler than any learnt."""
    pale = colours.clone()
    pale[:, cytoplasm_colour.CYTOPLASM_MEAN] = 0.06
    return float(
        (
            network.cytoplasm_colour_head.classify(pale).argmax(1)
            == cytoplasm_colour.COLOUR.states.index("light_blue")
        )
        .float()
        .mean()
    )


def test_what_is_pale_is_called_so_only_because_that_is_taught(examples, monkeypatch):
    monkeypatch.setattr(cytoplasm_colour, "PALE_SHARE", 0.0)
    network, _ = fitted(examples)
    assert (
        paled(
            network,
            cytoplasm_colour._measure_colours(
                network, cytoplasm_colour._cells_with_colour(examples), RECIPE
            )[0],
        )
        < 0.5
    )


def test_cells_that_say_nothing_of_it_teach_nothing(examples, tmp_path):
    rng = np.random.default_rng(1)
    silent = [
        labelled(examples[0].path),
        labelled(examples[0].path, ("granularity", "granular")),
        labelled(
            examples[0].path, ("cytoplasm_colour", "blue"), cells=2, box=None
        ),  # which of them is in the middle nobody says
        labelled(
            picture(tmp_path / "lost.png", COLOURS["blue"], rng, nucleus=(-99, -99, -99)),
            ("cytoplasm_colour", "blue"),
        ),
    ]
    torch.manual_seed(1)
    before = Found().cytoplasm_colour_head.state_dict()
    network, told = fitted(silent)
    assert not told and all(
        torch.equal(before[name], value)
        for name, value in network.cytoplasm_colour_head.state_dict().items()
    )


def test_each_cell_of_a_picture_is_measured_where_its_box_is(tmp_path):
    rng, rgb = np.random.default_rng(2), []
    for name in ("blue", "light_blue"):
        rgb.append(np.asarray(Image.open(picture(tmp_path / f"{name}.png", COLOURS[name], rng))))
    Image.fromarray(np.hstack(rgb)).save(tmp_path / "both.png")
    cells = tuple(
        CellLabel((x + 18.0, 18.0, x + 78.0, 78.0), ("monocyte",), (("cytoplasm_colour", name),))
        for x, name in ((0, "blue"), (96, "light_blue"))
    )
    both = cytoplasm_colour._cells_with_colour(
        [Example(str(tmp_path / "both.png"), 0.12, "s", "train", cells)]
    )
    colours, states = cytoplasm_colour._measure_colours(
        Found(), both, Recipe(canvas_px=96, mpp=0.12, stain=0.0)
    )
    for name in ("blue", "light_blue"):
        own = (
            colours[states == cytoplasm_colour.COLOUR.states.index(name)][
                :, cytoplasm_colour.CYTOPLASM_MEAN
            ]
            .median(0)
            .values
        )
        assert torch.allclose(
            own, -torch.log10((torch.tensor(COLOURS[name]) + 1.0) / 256), atol=0.05
        ), name
