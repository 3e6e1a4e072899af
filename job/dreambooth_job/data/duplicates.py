"""Finds pictures that show the same thing: a recurring picture is learned as part of the subject.

Two 64-bit fingerprints must agree, so that neither flat backgrounds (which fool gradients) nor shared lighting (which
fools low frequencies) alone makes a duplicate. Difference hash and DCT hash as described by N. Krawetz, "Kind of like
that" (2013) and "Looks like it" (2011).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

MAX_DIFFERENT_BITS = 6  # of 64, for each fingerprint


@dataclass(frozen=True)
class Fingerprint:
    gradients: int
    frequencies: int

    def close_to(self, other: Fingerprint) -> bool:
        return (self.gradients ^ other.gradients).bit_count() <= MAX_DIFFERENT_BITS and (
            self.frequencies ^ other.frequencies
        ).bit_count() <= MAX_DIFFERENT_BITS


def fingerprint(rgb: Image.Image) -> Fingerprint:
    return Fingerprint(_difference_hash(rgb), _dct_hash(rgb))


def groups(fingerprints: Sequence[Fingerprint]) -> list[list[int]]:
    """Positions that belong together, each group ascending; pictures alone are left out."""
    found: list[list[int]] = []
    for i, one in enumerate(fingerprints):
        home = next((g for g in found if any(one.close_to(fingerprints[j]) for j in g)), None)
        if home is None:
            found.append([i])
        else:
            home.append(i)
    return [group for group in found if len(group) > 1]


def _difference_hash(rgb: Image.Image) -> int:
    grey = np.asarray(rgb.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    return _bits(grey[:, 1:] > grey[:, :-1])


def _dct_hash(rgb: Image.Image) -> int:
    grey = np.asarray(rgb.convert("L").resize((32, 32), Image.Resampling.BOX), dtype=np.float64)
    low = (_dct_matrix() @ grey @ _dct_matrix().T)[:8, :8].flatten()[1:]  # without the mean brightness
    return _bits(low > np.median(low))


@cache
def _dct_matrix(size: int = 32) -> np.ndarray:
    """DCT-II; its scale does not matter, for only the order of the coefficients does."""
    k, n = np.arange(size)[:, None], np.arange(size)[None, :]
    return np.cos(np.pi * k * (2 * n + 1) / (2 * size))


def _bits(flags: np.ndarray) -> int:
    return int("".join("1" if flag else "0" for flag in flags.flatten()), 2)
