"""COCO instance JSON and LeukoX's tensors: read as they stand, refused by row where malformed."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from hemax_batch.errors import DataError
from hemax_batch.learning.data.examples import load_mask, load_rgb
from hemax_batch.learning.data.read_folder import read_folder
from hemax_batch.learning.data.sampler import PatchSampler
from hemax_batch.vocabulary import WHITE_NAMES


def write_coco(folder, file="instances_train.json", **changed):
    """One picture of 60 x 40 px with a monocyte (box and polygon), a "WBC" (RLE only), and a red cell; `changed` alters
    the monocyte's row, or with the names of COCO's tables those."""
    (folder / "images").mkdir(exist_ok=True)
    Image.new("RGB", (60, 40), (200, 180, 190)).save(folder / "images" / "a.png")
    drawn = np.zeros((40, 60), np.uint8)
    drawn[10:20, 30:50] = 1
    column_major = drawn.T.ravel()
    turns = np.flatnonzero(np.diff(column_major)) + 1
    counts = np.diff([0, *turns, column_major.size]).tolist()
    monocyte = {
        "image_id": 7,
        "category_id": 1,
        "bbox": [5, 6, 20, 22],
        "segmentation": [[5, 6, 25, 6, 25, 28, 5, 28]],
    }
    data = {
        "info": {"mpp": 0.1},
        "images": [{"id": 7, "file_name": "a.png", "width": 60, "height": 40}],
        "categories": [
            {"id": 1, "name": "Monocyte"},
            {"id": 2, "name": "WBC"},
            {"id": 3, "name": "RBC"},
        ],
        "annotations": [
            monocyte,
            {"image_id": 7, "category_id": 2, "segmentation": {"size": [40, 60], "counts": counts}},
            {"image_id": 7, "category_id": 3, "bbox": [0, 0, 4, 4]},
        ],
    }
    for key, value in changed.items():
        (data if key in data else monocyte)[key] = value
    (folder / file).write_text(json.dumps(data))
    return folder


def test_coco_is_read(tmp_path):
    (example,) = read_folder(write_coco(tmp_path))
    assert (example.mpp, example.split, example.source) == (0.1, "train", tmp_path.name)
    monocyte, white = example.cells
    assert (monocyte.allowed, monocyte.box_xyxy) == (("monocyte",), (5, 6, 25, 28))
    assert (white.allowed, white.box_xyxy) == (
        WHITE_NAMES,
        (30, 10, 50, 20),
    )  # the box of the run lengths
    assert example.ignored == ((0, 0, 4, 4),)


def test_a_coco_file_named_val_is_held_out(tmp_path):
    assert read_folder(write_coco(tmp_path, "instances_val2017.json"))[0].split == "val"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"bbox": [5, 6, 80, 10]},
            r"annotations\[0\]: box .* does not lie in the image of 60 x 40 px",
        ),
        ({"bbox": [5, 6, 0, 10]}, r"annotations\[0\]: box"),
        ({"bbox": ["5", 6, 7, 10]}, r"annotations\[0\]: bbox .* is not x, y, w, h"),
        ({"category_id": 9}, r"annotations\[0\]: unknown class 9"),
        (
            {"categories": [{"id": 1, "name": "monozyt"}]},
            r"annotations\[0\]: unknown class 'monozyt'; known: blast",
        ),
        ({"image_id": 8}, r"annotations\[0\]: image_id 8 is not among the images"),
        (
            {"segmentation": {"size": [40, 61], "counts": [2440]}},
            r"annotations\[0\]: mask is \(61, 40\) px, its image",
        ),
        (
            {"segmentation": {"size": [40, 60], "counts": [9]}},
            r"annotations\[0\]: the mask's runs cover 9 of 2400 px",
        ),
        ({"segmentation": [[5, 6, 99, 6, 9, 9]]}, r"annotations\[0\]: segmentation does not lie"),
        ({"segmentation": [[5, 6, 7]]}, r"annotations\[0\]: segmentation is not a list"),
        ({"info": {}}, r"images\[0\]: mpp is None; COCO knows no scale"),
        (
            {"images": [{"id": 7, "file_name": "b.png"}]},
            r"images\[0\]: image 'b.png' does not exist",
        ),
        (
            {"images": [{"id": 7, "file_name": "a.png", "width": 61}]},
            r"images\[0\]: says 61 x 40 px, a.png has 60 x 40",
        ),
    ],
)
def test_malformed_coco_is_refused_by_row(tmp_path, changed, message):
    with pytest.raises(DataError, match=message):
        read_folder(write_coco(tmp_path, **changed))


def write_leukox(folder, told=(), codes="a.jpg;2 3 4 2;\n", **tensors):
    """One picture of 60 x 40 px with one cell; `tensors` replaces a folder's tensor."""
    drawn = torch.zeros(1, 2, 40, 60)
    drawn[0, 0, 12:20, 12:20], drawn[0, 1, 8:24, 8:26] = 1, 1
    drawn[0, 1, 12:20, 12:20] = 0
    given = {
        "inputs": torch.rand(3, 40, 60),
        "bounding_boxes": torch.tensor([[8.0, 8, 18, 16]]),
        "instances": drawn,
        "classes": torch.tensor([1]),
    } | tensors
    for name, tensor in given.items():
        (folder / name).mkdir(exist_ok=True)
        torch.save(tensor, folder / name / "a.pt")
    meaning = {
        "granularity": ["agranular", "coarse"],
        "cytoplasm_colour": ["light_blue", "blue"],
        "nucleus_shape": ["round", None, "multilobed"],
    }
    says = {"mpp": 0.1, "classes": ["basophil", "blast"], "attributes": meaning} | dict(told)
    (folder / "leukox.json").write_text(json.dumps(says))
    (folder / "attributes.txt").write_text(codes)
    return folder


def test_leukox_is_read_and_trained_on(tmp_path):
    (example,) = read_folder(write_leukox(tmp_path))
    (cell,) = example.cells
    assert (cell.box_xyxy, cell.allowed) == ((8, 8, 26, 24), ("blast",))
    assert cell.attributes == (
        ("granularity", "agranular"),
        ("cytoplasm_colour", "blue"),
        ("nucleus_shape", "multilobed"),
    )
    mask, pixels = load_mask(example.mask_path), load_rgb(example.path)
    assert pixels.shape == (40, 60, 3) and pixels.dtype == np.uint8 and pixels.max() > 200
    assert ((mask == 2).sum(), (mask == 1).sum()) == (64, 18 * 16 - 64)
    _, targets = PatchSampler([example], 0.1).batch(np.random.default_rng(0), 2, 96)
    assert targets.labels.any() and (targets.mask_weight[targets.present] == 1).all()


def test_a_state_that_means_nothing_here_is_not_taught(tmp_path):
    (example,) = read_folder(write_leukox(tmp_path, codes="a.jpg;2 2 3 4;"))
    assert [name for name, _ in example.cells[0].attributes] == ["granularity", "cytoplasm_colour"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"bounding_boxes": torch.tensor([[8.0, 8, 70, 16]])},
            "a.pt row 0: box .* does not lie in the image of 60 x 40",
        ),
        ({"classes": torch.tensor([2])}, "a.pt row 0: unknown class 2; leukox.json knows 0 to 1"),
        ({"classes": torch.tensor([1, 1])}, "1 boxes, but .* has 2 classes"),
        ({"instances": torch.zeros(1, 2, 40, 61)}, "a.pt: mask is .*, its image 60 x 40 px"),
        ({"inputs": torch.zeros(40, 60)}, "a.pt: shape .*; expected"),
        ({"inputs": {"a": 1}}, "a.pt: holds a dict, not a tensor"),
        (
            {"codes": "a.jpg;2 9 2 2;"},
            "attributes.txt row 1: cytoplasm_colour code 9; leukox.json knows 2 to 3",
        ),
        ({"codes": "a.jpg;2 2 2;"}, "attributes.txt row 1: .* is not `name.jpg;g c n s;`"),
        ({"codes": "b.jpg;2 2 2 2;"}, "'b' has attributes or a split, but no inputs/b.pt"),
        *(
            ({"told": {"mpp": mpp}}, "leukox.json: mpp is .*; expected µm/px")
            for mpp in (0, -0.1, None, [])
        ),
        ({"told": {"mpp": float("nan")}}, "leukox.json: needs `mpp` and .*NaN is no figure"),
        ({"told": {"classes": ["neutrofil"]}}, "leukox.json: unknown class 'neutrofil'"),
        (
            {"told": {"attributes": {"granularity": ["grainy"]}}},
            "leukox.json: attribute 'granularity', state 'grainy'",
        ),
    ],
)
def test_malformed_leukox_is_refused_by_row(tmp_path, changed, message):
    with pytest.raises(DataError, match=message):
        read_folder(write_leukox(tmp_path, **changed))


def test_a_tensor_file_that_would_run_code_is_refused(tmp_path):
    write_leukox(tmp_path)
    torch.save(Recorder(), tmp_path / "classes" / "a.pt")
    with pytest.raises(DataError, match="cannot be read as a tensor"):
        read_folder(tmp_path)


class Recorder:
    """An object whose pickle calls a function when it is read."""

    def __reduce__(self):
        return print, ("run",)


def test_the_numbers_of_leukox_need_their_meaning(tmp_path):
    (write_leukox(tmp_path) / "leukox.json").unlink()
    with pytest.raises(
        DataError, match="does not say µm/px nor what its class and attribute numbers mean"
    ):
        read_folder(tmp_path)
