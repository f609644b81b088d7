import array_slide
import numpy as np
import pytest
from array_slide import ArrayReader, Painting
from checkout import SHARED
from PIL import Image
from scipy import ndimage

from hemax_batch.records import StainProfile
from hemax_batch.slides import lattice, quality, screen_view
from hemax_batch.slides.stain import DEFAULT_RBC_OD, is_bright_field, measure_stain

STAIN = StainProfile(array_slide.GLASS, array_slide.RED_CELL, 0.12)
DATA = SHARED / "data"


@pytest.mark.parametrize(
    "mpp, levels", [(0.1, (1.0, 4.0)), (0.1, (1.0,)), (0.25, (1.0,)), (0.5, (1.0,))]
)
def test_the_stain_of_a_painted_smear_is_measured(mpp, levels):
    reader = ArrayReader(array_slide.smear_rgb(90, 80, mpp, seed=1, cells=2), mpp, levels)
    stain = measure_stain(reader)
    np.testing.assert_allclose(stain.background_rgb, array_slide.GLASS, atol=6)
    np.testing.assert_allclose(stain.rbc_od_rgb, array_slide.RED_CELL, atol=0.03)
    assert 0.12 <= stain.nucleus_od_threshold <= 0.2
    assert stain.warnings == ()
    assert stain == measure_stain(reader)


def test_fluorescence_on_a_dark_blue_ground_is_not_bright_field():
    rgb = array_slide.smear_rgb(120, 100, 0.25, seed=2)
    rgb[..., :2] //= 30
    stain = measure_stain(ArrayReader(rgb, 0.25))
    assert not is_bright_field(stain) and "dark" in stain.warnings[0]


def test_a_large_slide_costs_no_more_than_a_bounded_sample():
    reader = ArrayReader(np.broadcast_to(np.uint8(240), (60_000, 80_000, 3)), 0.1)
    stain = measure_stain(reader)
    assert len(reader.pixels_read) <= 64 and sum(reader.pixels_read) < 64 * 800**2
    assert stain.warnings[0].startswith("no stained smear")


@pytest.mark.parametrize(
    "value, words", [(0, "dark"), (3, "dark"), (241, "nothing darker"), (255, "nothing darker")]
)
def test_a_slide_without_a_smear_is_named_as_such(value, words):
    stain = measure_stain(ArrayReader(np.full((500, 700, 3), value, np.uint8), 0.25))
    assert (
        stain.warnings
        and stain.warnings[0].startswith("no stained smear")
        and words in stain.warnings[0]
    )


def test_a_grey_picture_is_named_as_such():
    rgb = array_slide.smear_rgb(90, 80, 0.25, seed=1, cells=2)
    grey = np.asarray(Image.fromarray(rgb).convert("L").convert("RGB"))
    assert measure_stain(ArrayReader(rgb, 0.25)).warnings == ()
    assert "the picture is grey" in measure_stain(ArrayReader(grey, 0.25)).warnings[0]


def test_packed_nuclei_without_red_cells_are_named():
    painting = Painting(250, 250, 0.5)
    for x in range(5, 250, 10):
        for y in range(5, 250, 10):
            painting.disc(x, y, 9, array_slide.NUCLEUS)
    assert "0 single red cells" in measure_stain(ArrayReader(painting.rgb(), 0.5)).warnings[0]


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (1, 400), (3, 3)])
def test_a_tiny_image_is_measured_without_complaint(size):
    reader = ArrayReader(np.full((*size, 3), 200, np.uint8), 0.1)
    stain = measure_stain(reader)
    assert stain.rbc_od_rgb == DEFAULT_RBC_OD
    pixels = reader.read(0, 0, 0, size[1], size[0])
    assert quality.rbc_diameters_um(pixels, 0.4, stain).shape == (0,)
    assert np.isnan(quality.focus(pixels, stain))


@pytest.mark.parametrize("fill", [255, 0])
def test_the_fill_of_unscanned_places_is_not_the_background(fill):
    rgb = array_slide.smear_rgb(300, 260, 0.25, seed=1)
    rgb[:, : rgb.shape[1] // 2] = fill
    np.testing.assert_allclose(
        measure_stain(ArrayReader(rgb, 0.25)).background_rgb, array_slide.GLASS, atol=6
    )


@pytest.mark.parametrize("mpp", [0.25, 0.4, 0.5])
@pytest.mark.parametrize("diameter_um", [6.0, 7.3, 9.0])
def test_red_cells_are_measured_to_a_third_of_a_micrometre(mpp, diameter_um):
    painting = Painting(120, 120, mpp)
    for x in np.arange(10, 120, 13.0):
        for y in np.arange(10, 120, 13.0):
            painting.disc(x, y, diameter_um, array_slide.RED_CELL, pallor=0.6)
    painting.disc(62, 62, 14, array_slide.NUCLEUS)
    found = quality.rbc_diameters_um(painting.rgb(noise=1), mpp, STAIN)
    assert len(found) > 40 and found.dtype == np.float32
    assert np.median(found) == pytest.approx(diameter_um, abs=0.33)


def test_doublets_cut_cells_platelets_and_nuclei_are_not_measured():
    painting = (
        Painting(80, 60, 0.25)
        .disc(20, 20, 7.3, array_slide.RED_CELL)
        .disc(24, 20, 7.3, array_slide.RED_CELL)
    )
    painting.disc(0, 40, 7.3, array_slide.RED_CELL).disc(40, 40, 2.5, array_slide.PLATELET)
    painting.disc(60, 30, 8, array_slide.NUCLEUS)
    assert len(quality.rbc_diameters_um(painting.rgb(), 0.25, STAIN)) == 0


def test_a_blurred_smear_is_less_in_focus_and_a_pale_one_is_not():
    sharp = array_slide.smear_rgb(150, 150, 0.4, seed=3)
    blurred = ndimage.gaussian_filter(sharp, (2.5, 2.5, 0))
    pale = (240 - (240 - sharp.astype(float)) * 0.6).astype(np.uint8)
    assert quality.focus(blurred, STAIN) < 0.5 * quality.focus(sharp, STAIN)
    assert quality.focus(pale, STAIN) == pytest.approx(quality.focus(sharp, STAIN), rel=0.3)
    assert np.isnan(quality.focus(np.full((50, 50, 3), 240, np.uint8), STAIN))


@pytest.mark.parametrize(
    "folder, mpp, every", [("chula", 0.20, 6), ("pbc", 0.10, 100), ("bccd", 0.08, 10)]
)
def test_real_red_cells_measure_as_an_adults(folder, mpp, every):
    if not (DATA / folder).exists():
        pytest.skip(f"no {DATA / folder}: real smear images are not part of the project")
    found = []
    for path in sorted((DATA / folder / "images").iterdir())[::every]:
        reader = ArrayReader(np.asarray(Image.open(path).convert("RGB")), mpp)
        grid = lattice.lattice_of(reader.slide, screen_view.STEP_UM)
        pixels = lattice.read_lattice(
            reader, grid, (0, 0, grid.width, grid.height), (255, 255, 255)
        )
        found.append(quality.rbc_diameters_um(pixels, grid.step_um, measure_stain(reader)))
    assert 6.5 < np.median(np.concatenate(found)) < 8.2
