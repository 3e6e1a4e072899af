"""Any picture file becomes upright 8-bit sRGB without metadata, or a sentence about why not.

The one door to Pillow's decoders; read by pictures.py. The file's content decides its format, never its name.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pi_heif
from PIL import Image, ImageCms, UnidentifiedImageError

from dreambooth_job.data.listing import MAX_PICTURE_BYTES
from dreambooth_job.errors import ImagesUnusable

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "HEIF", "BMP", "TIFF", "GIF")  # never EPS, which runs Ghostscript
MAX_PIXELS = 64_000_000
MAX_SIDE_PX = 16_384
MAX_ASPECT = 4
ORIENTATION_TAG = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
WHITE = (255, 255, 255)
DEEP_GREY = ("I", "F")  # 32 bit; the 16-bit modes all start with "I;16"

pi_heif.register_heif_opener()


@dataclass(frozen=True)
class Decoded:
    rgb: Image.Image  # mode RGB, upright, no metadata
    alpha: Image.Image | None  # mode L, None when every pixel is opaque
    notes: tuple[str, ...]


def open_picture(path: Path) -> Decoded:
    """Raises ImagesUnusable whose message is a predicate ("is empty"): the caller puts the picture's name before it."""
    size_bytes = path.stat().st_size
    if size_bytes == 0:
        raise ImagesUnusable("is empty (0 bytes)")
    if size_bytes > MAX_PICTURE_BYTES:
        raise ImagesUnusable(f"is {size_bytes >> 20} MB, at most {MAX_PICTURE_BYTES >> 20} MB are read")
    notes: list[str] = []
    with _decoder_errors(path), Image.open(path, formats=FORMATS) as source:
        _check_size(*source.size)  # from the header: no pixel is decoded yet
        # MPO, a phone's JPEG with a depth map or a second view behind it, is not an animation to its owner.
        if getattr(source, "is_animated", False) and source.format != "MPO":
            notes.append("first of several frames used")
        if _orientation(source) in TURNS:
            notes.append("turned upright as its EXIF orientation says")
        source.load()
        upright = _turned(source, _orientation(source))  # asked again: the TIFF reader has turned it while loading
        rgb, colour_notes = _to_srgb(upright)
        alpha = _alpha(upright)
    if alpha is not None:
        notes.append("transparency placed on white")
        rgb = Image.composite(rgb, Image.new("RGB", rgb.size, WHITE), alpha)
    return Decoded(_without_metadata(rgb), alpha, (*notes, *colour_notes))


@contextmanager
def _decoder_errors(path: Path) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF and of many pixels: both are dealt with here
            yield
    except (ImagesUnusable, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise ImagesUnusable(_what_else(path)) from error
    except Image.DecompressionBombError as error:
        raise ImagesUnusable(f"has more than {MAX_PIXELS // 1_000_000} million pixels; make it smaller") from error
    except Exception as error:  # decoders raise whatever the bytes lead them to: OSError, SyntaxError, ...
        raise ImagesUnusable("is damaged or cut off; upload it again") from error


def _what_else(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<!doctype html", b"<html", b"<?xml", b"<svg")):
        return "is a web page or drawing (HTML, XML, SVG) under a picture's name; download the picture itself"
    return "is not a JPEG, PNG, WebP, AVIF, HEIC, BMP, TIFF or GIF picture, or its start is damaged; convert it"


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ImagesUnusable(f"is {width}x{height} px, at most {MAX_PIXELS // 1_000_000} million pixels are read")
    if max(width, height) > MAX_SIDE_PX:
        raise ImagesUnusable(f"is {width}x{height} px, at most {MAX_SIDE_PX} px a side are read")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImagesUnusable(f"is {width}x{height} px, longer than {MAX_ASPECT}:1; crop it to the subject")


def _orientation(image: Image.Image) -> int:
    """1, upright, when there is none or its EXIF cannot be read: pixels matter more than their labels."""
    try:
        return int(image.getexif().get(ORIENTATION_TAG, 1))
    except (SyntaxError, ValueError, TypeError, LookupError, OSError, struct.error):
        return 1


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    """Unlike ImageOps.exif_transpose this never writes the EXIF back, which fails on what cameras write."""
    if orientation not in TURNS:
        return image
    turned = image.transpose(TURNS[orientation])
    turned.info = image.info  # its colour profile and transparent colour
    return turned


def _to_srgb(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """Colours alone; transparency is `_alpha`'s."""
    if image.mode.startswith("I;16") or image.mode in DEEP_GREY:
        return _eight_bit(np.asarray(image, dtype=np.float32)).convert("RGB"), [f"{_depth(image.mode)} scaled to 8 bit"]
    profile = image.info.get("icc_profile")
    colours = image if image.mode in ("RGB", "CMYK", "L") else image.convert("L" if image.mode == "LA" else "RGB")
    if not profile:
        return colours.convert("RGB"), ["CMYK without a colour profile"] if colours.mode == "CMYK" else []
    try:
        return _through_profile(colours, profile)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return colours.convert("RGB"), ["unreadable colour profile ignored"]


def _through_profile(image: Image.Image, profile_bytes: bytes) -> tuple[Image.Image, list[str]]:
    profile = ImageCms.ImageCmsProfile(io.BytesIO(profile_bytes))
    description = ImageCms.getProfileDescription(profile).strip()
    if image.mode == "L" and profile.profile.xcolor_space.strip() == "RGB":
        image = image.convert("RGB")
    if image.mode == "RGB" and "sRGB" in description:
        return image, []
    converted = ImageCms.profileToProfile(
        image, profile, ImageCms.createProfile("sRGB"), ImageCms.Intent.RELATIVE_COLORIMETRIC, "RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )  # fmt: skip
    assert converted is not None  # inPlace is off
    return converted, [f"colours converted to sRGB from {image.mode} with its profile"]


def _eight_bit(values: np.ndarray) -> Image.Image:
    """Scales by the range that the values declare: 0-1, 0-255 or 0-65535; anything else is stretched to fill it."""
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 65535:
        scaled = (values - low) * (255 / max(high - low, 1e-12))
    else:
        scaled = values * (255 if high <= 1 else 1 if high <= 255 else 255 / 65535)
    return Image.fromarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))


def _depth(mode: str) -> str:
    return "32-bit grey" if mode in DEEP_GREY else "16-bit grey"


def _alpha(image: Image.Image) -> Image.Image | None:
    if not image.has_transparency_data or image.mode.startswith("I") or image.mode == "F":
        return None
    alpha = image.convert("RGBA").getchannel("A")
    lowest, highest = alpha.getextrema()
    if highest == 0:
        raise ImagesUnusable("is wholly transparent; remove or replace it")
    return None if lowest == 255 else alpha


def _without_metadata(image: Image.Image) -> Image.Image:
    """Pillow carries EXIF (with its GPS position) and comments along in `info`; pixels alone cannot."""
    return Image.fromarray(np.asarray(image.convert("RGB")))
