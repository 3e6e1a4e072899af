"""Drawn pictures for these tests: small, asymmetric, so that every turn and every wrong colour shows."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw


@pytest.fixture
def scene() -> Image.Image:
    """96 x 64: red, a blue quadrant top left, a yellow disc bottom right. `quadrant.heic` shows the same."""
    image = Image.new("RGB", (96, 64), (200, 40, 40))
    draw = ImageDraw.Draw(image)
    draw.rectangle([0, 0, 47, 31], fill=(40, 90, 200))
    draw.ellipse([56, 24, 88, 56], fill=(240, 220, 60))
    return image


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """save(image_or_bytes, name, **pillow_options) -> path."""

    def write(content: Image.Image | bytes, name: str, **options: object) -> Path:
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content.save(path, **options)
        return path

    return write


@pytest.fixture
def photo() -> Callable[[int], Image.Image]:
    """photo(seed) -> a 96 x 80 picture unlike those of other seeds."""

    def draw(seed: int) -> Image.Image:
        values = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        return Image.fromarray(values).resize((96, 80), Image.Resampling.BICUBIC)

    return draw


@pytest.fixture
def encoded() -> Callable[..., bytes]:
    def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    return encode
