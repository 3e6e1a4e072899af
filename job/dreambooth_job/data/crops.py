"""Puts a picture into the training square with the subject in view, by rules that need no model.

The square has the short side's length and slides along the long one. It goes where most edges are, weighed towards the
centre, where people put what they photograph; a cut-out's own outline is better evidence and takes the edges' place.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from dreambooth_job.errors import ImagesUnusable

Box = tuple[int, int, int, int]  # left, top, right, bottom in upright pixels
ANALYSIS_PX = 64  # short side while looking for the subject: fine texture such as grass is blurred away
CENTRE_SPREAD = 0.35  # standard deviation of the centre's weight, in picture lengths
CLOSE_TO_BEST = 0.995  # windows this good are one plateau; its member nearest to the subject's middle is taken
SMALLEST_SIDE_PX = 256


def smallest_side_px(resolution: int) -> int:
    """Enlarging more than twice teaches blur; below 256 px little of a photo is left, unless training is as small."""
    return max(min(SMALLEST_SIDE_PX, resolution), math.ceil(resolution / 2))


def check_size(width: int, height: int, resolution: int) -> tuple[str, ...]:
    """A note when the picture must be enlarged; raises ImagesUnusable (a predicate) when that would be too much."""
    short, smallest = min(width, height), smallest_side_px(resolution)
    if short < smallest:
        raise ImagesUnusable(f"is {width}x{height} px; need at least {smallest} on the short side")
    return (f"enlarged from {short} to {resolution} px",) if short < resolution else ()


def crop_box(rgb: Image.Image, alpha: Image.Image | None = None) -> Box:
    """The square to cut; deterministic. `alpha` is mode L and of the same size as `rgb`."""
    width, height = rgb.size
    side = min(width, height)
    if width == height:
        return (0, 0, side, side)
    scale = min(1.0, ANALYSIS_PX / side)
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    energy = _outline(alpha, small) if alpha is not None else _edges(rgb, small) * _centre_weight(small)
    profile = energy.sum(axis=0 if width > height else 1)
    start = round(_best_start(profile, min(small)) / len(profile) * max(width, height))
    start = min(start, max(width, height) - side)
    return (start, 0, start + side, side) if width > height else (0, start, side, start + side)


def square(rgb: Image.Image, box: Box, resolution: int) -> np.ndarray:
    """Cuts and resizes with Lanczos: uint8 [resolution, resolution, 3]."""
    return np.asarray(rgb.crop(box).resize((resolution, resolution), Image.Resampling.LANCZOS))


def _edges(rgb: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Gradient energy, float [h, w], summed over the colours so that edges between equally light ones count."""
    values = np.asarray(rgb.resize(size, Image.Resampling.BOX), dtype=np.float64)
    down, across = np.gradient(values, axis=0), np.gradient(values, axis=1)
    return np.asarray((down**2 + across**2).sum(axis=2))


def _outline(alpha: Image.Image, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(alpha.resize(size, Image.Resampling.BOX), dtype=np.float64)


def _centre_weight(size: tuple[int, int]) -> np.ndarray:
    width, height = size
    x = (np.arange(width) + 0.5) / width - 0.5
    y = (np.arange(height) + 0.5) / height - 0.5
    return np.exp(-(x[None, :] ** 2 + y[:, None] ** 2) / (2 * CENTRE_SPREAD**2))


def _best_start(profile: np.ndarray, length: int) -> int:
    """Start of the window of `length` that holds most of `profile` [n]; the middle one when nothing stands out."""
    if profile.sum() == 0:
        return (len(profile) - length) // 2
    sums = np.convolve(profile, np.ones(length), mode="valid")
    candidates = np.flatnonzero(sums >= CLOSE_TO_BEST * sums.max())
    middle = float((profile * np.arange(len(profile))).sum() / profile.sum())
    return int(candidates[np.argmin(np.abs(candidates + (length - 1) / 2 - middle))])
