from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from dreambooth_job.data.crops import check_size, crop_box, smallest_side_px, square
from dreambooth_job.errors import ImagesUnusable


def field(width: int, height: int, disc: tuple[int, int] | None, radius: int = 60) -> Image.Image:
    """A soft background with, perhaps, a striped disc at a place."""
    shade = np.linspace(90, 140, width)[None, :, None] + np.linspace(0, 30, height)[:, None, None]
    image = Image.fromarray(np.broadcast_to(shade, (height, width, 3)).astype(np.uint8))
    if disc:
        x, y = disc
        draw = ImageDraw.Draw(image)
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=(220, 40, 40))
        draw.ellipse([x - radius // 2, y - radius // 2, x + radius // 2, y + radius // 2], fill=(250, 240, 60))
    return image


@pytest.mark.parametrize("x", [70, 200, 400, 600, 730])
def test_the_subject_stays_in_view_wherever_it_is(x):
    left, top, right, bottom = crop_box(field(800, 400, (x, 200)))
    assert (right - left, bottom - top, top) == (400, 400, 0)
    assert 0 <= left <= x - 60
    assert x + 60 <= right <= 800


@pytest.mark.parametrize("y", [70, 400, 730])
def test_the_subject_stays_in_view_in_an_upright_picture(y):
    left, top, right, bottom = crop_box(field(400, 800, (200, y)))
    assert (left, right) == (0, 400)
    assert top <= y - 60
    assert y + 60 <= bottom


def test_nothing_to_see_is_cut_from_the_middle():
    assert crop_box(Image.new("RGB", (300, 100))) == (100, 0, 200, 100)


def test_a_square_is_left_whole():
    assert crop_box(field(200, 200, (30, 30), 20)) == (0, 0, 200, 200)


def test_a_cut_outs_outline_beats_the_edges_in_the_picture():
    alpha = Image.new("L", (800, 400))
    alpha.paste(255, (600, 100, 700, 300))
    assert crop_box(field(800, 400, (100, 200)), alpha) == pytest.approx((400, 0, 800, 400), abs=60)
    left, _, right, _ = crop_box(field(800, 400, (100, 200)), alpha)
    assert left <= 600
    assert right >= 700


@pytest.mark.parametrize("size", [(101, 100), (100, 101), (64, 65), (4000, 1001), (67, 256)])
def test_the_box_is_a_square_inside_the_picture(size):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    left, top, right, bottom = crop_box(image)
    assert right - left == bottom - top == min(size)
    assert left >= 0
    assert top >= 0
    assert right <= size[0]
    assert bottom <= size[1]
    assert crop_box(image) == (left, top, right, bottom)


def test_the_square_shows_what_the_box_holds():
    image = field(200, 100, None)
    image.paste((0, 0, 255), (100, 0, 200, 100))
    pixels = square(image, (100, 0, 200, 100), 64)
    assert pixels.shape == (64, 64, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - (0, 0, 255)).max() <= 1


@pytest.mark.parametrize(
    ("resolution", "smallest"), [(64, 64), (128, 128), (256, 256), (512, 256), (768, 384), (1024, 512)]
)
def test_the_smallest_side_follows_the_resolution(resolution, smallest):
    assert smallest_side_px(resolution) == smallest
    assert check_size(4 * smallest, smallest, resolution) == (
        (f"enlarged from {smallest} to {resolution} px",) if smallest < resolution else ()
    )
    with pytest.raises(ImagesUnusable, match=rf"is 900x{smallest - 1} px; need at least {smallest} on the short side"):
        check_size(900, smallest - 1, resolution)
