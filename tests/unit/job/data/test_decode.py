from __future__ import annotations

import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from dreambooth_job.data import decode
from dreambooth_job.data.decode import open_picture
from dreambooth_job.errors import ImagesUnusable

TOLERANCE = 2  # of 255, mean


def difference(image: Image.Image, reference: Image.Image) -> float:
    assert image.size == reference.size
    assert image.mode == "RGB"
    return float(np.abs(np.asarray(image, dtype=int) - np.asarray(reference.convert("RGB"), dtype=int)).mean())


def png_header(width: int, height: int, colour_type: int = 0, bits: int = 1, body: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + body
        + chunk(b"IDAT", zlib.compress(b"\0" * 64))
        + chunk(b"IEND", b"")
    )


LOSSLESS = {"quality": 100, "lossless": True}
FINE = {"quality": 98, "subsampling": 0}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}), ("a.bmp", {}), ("a.tiff", {}), ("lzw.tif", {"compression": "tiff_lzw"}), ("a.jpg", FINE),
        ("progressive.jpg", {"progressive": True, **FINE}), ("a.webp", LOSSLESS),
        ("a.avif", {"quality": 100, "subsampling": "4:4:4"}),
    ],
)  # fmt: skip
def test_every_format_opens_with_its_colours(save, scene, name, options):
    assert difference(open_picture(save(scene, name, **options)).rgb, scene) <= TOLERANCE


def test_heic_opens_with_its_colours(scene):
    decoded = open_picture(Path(__file__).with_name("quadrant.heic"))
    assert difference(decoded.rgb, scene) <= TOLERANCE
    assert decoded.alpha is None


def test_content_decides_the_format_not_the_name(save, scene, encoded):
    assert difference(open_picture(save(encoded(scene, "WEBP", **LOSSLESS), "a.jpg")).rgb, scene) <= TOLERANCE


TURNS = {
    1: [], 2: [Image.Transpose.FLIP_LEFT_RIGHT], 3: [Image.Transpose.ROTATE_180], 4: [Image.Transpose.FLIP_TOP_BOTTOM],
    5: [Image.Transpose.TRANSPOSE], 6: [Image.Transpose.ROTATE_90], 7: [Image.Transpose.TRANSVERSE],
    8: [Image.Transpose.ROTATE_270],
}  # fmt: skip


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", TURNS)
def test_exif_orientation_is_applied(save, scene, encoded, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = scene
    for turn in TURNS[orientation]:  # how a camera stores the scene so that this orientation turns it upright
        stored = stored.transpose(turn)
    options = {"JPEG": FINE, "WEBP": LOSSLESS}.get(kind, {})
    decoded = open_picture(save(encoded(stored, kind, exif=exif, **options), "a.jpg"))
    assert difference(decoded.rgb, scene) <= TOLERANCE
    assert any("upright" in note for note in decoded.notes) == (orientation != 1)


def test_all_metadata_is_dropped(save, scene):
    exif = Image.Exif()
    exif[0x010E] = "my home"
    exif.get_ifd(0x8825)[1] = "N"
    decoded = open_picture(save(scene, "a.jpg", exif=exif, comment=b"secret", **FINE))
    assert decoded.rgb.info == {}
    assert dict(decoded.rgb.getexif()) == {}


def broken_tag_exif() -> bytes:
    """Orientation 1 beside a rational that points behind the end, as some cameras write it."""
    entries = struct.pack("<HHII", 0x0112, 3, 1, 1) + struct.pack("<HHII", 0x011A, 5, 1, 9999)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + b"\0" * 4


@pytest.mark.parametrize("exif", [b"Exif\0\0II*\0\xff\xff\xff\xffgarbage", b"Exif\0\0garbage", broken_tag_exif()])
def test_unreadable_exif_costs_no_picture(save, scene, exif):
    assert difference(open_picture(save(scene, "a.jpg", exif=exif, **FINE)).rgb, scene) <= TOLERANCE


def with_hole(scene: Image.Image) -> tuple[Image.Image, Image.Image]:
    """The scene with its right half transparent, and what it must look like on white."""
    alpha = Image.new("L", scene.size, 255)
    alpha.paste(0, (48, 0, 96, 64))
    cut = scene.copy()
    cut.putalpha(alpha)
    on_white = scene.copy()
    on_white.paste((255, 255, 255), (48, 0, 96, 64))
    return cut, on_white


def test_alpha_is_placed_on_white_and_recorded(save, scene):
    cut, on_white = with_hole(scene)
    decoded = open_picture(save(cut, "a.png"))
    assert difference(decoded.rgb, on_white) == 0
    assert decoded.alpha is not None
    assert decoded.alpha.getextrema() == (0, 255)
    assert decoded.notes == ("transparency placed on white",)


def test_grey_with_alpha_is_placed_on_white(save, scene):
    cut, on_white = with_hole(scene)
    decoded = open_picture(save(cut.convert("LA"), "a.png"))
    assert difference(decoded.rgb, on_white.convert("L")) <= 1


def test_palette_with_a_transparent_colour_is_placed_on_white(save):
    image = Image.new("P", (8, 8), 0)
    image.putpalette([10, 20, 30, 200, 40, 40])
    image.paste(1, (0, 0, 4, 8))
    decoded = open_picture(save(image, "a.png", transparency=0))
    assert decoded.rgb.getpixel((0, 0)) == (200, 40, 40)
    assert decoded.rgb.getpixel((7, 7)) == (255, 255, 255)


def test_an_opaque_alpha_channel_says_nothing(save, scene):
    decoded = open_picture(save(scene.convert("RGBA"), "a.png"))
    assert (decoded.alpha, decoded.notes) == (None, ())


def test_a_wholly_transparent_picture_is_refused(save):
    with pytest.raises(ImagesUnusable, match="wholly transparent"):
        open_picture(save(Image.new("RGBA", (8, 8), (1, 2, 3, 0)), "a.png"))


def ramp(kind: type, top: float) -> np.ndarray:
    return np.tile(np.linspace(0, top, 256), (64, 1)).astype(kind)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        (ramp(np.uint16, 65535), "sixteen.png"), (ramp(np.uint16, 65535), "sixteen.tif"),
        (ramp(np.int32, 65535), "thirty-two.tif"), (ramp(np.int32, 2_000_000), "huge.tif"),
        (ramp(np.float32, 1), "unit.tif"), (ramp(np.float32, 255), "bytes.tif"), (ramp(np.float32, 65535), "words.tif"),
        (ramp(np.float32, 2) - 1, "signed.tif"),
    ],
)  # fmt: skip
def test_deep_grey_is_scaled_by_its_range(save, values, name):
    decoded = open_picture(save(Image.fromarray(values), name))
    expected = Image.fromarray(np.tile(np.arange(256), (64, 1)).astype(np.uint8))
    assert difference(decoded.rgb.resize((64, 16)), expected.resize((64, 16))) <= TOLERANCE


def test_not_a_number_in_a_float_picture_becomes_black(save):
    values = ramp(np.float32, 1)
    values[0, 0] = np.nan
    assert open_picture(save(Image.fromarray(values), "a.tif")).rgb.getpixel((0, 0)) == (0, 0, 0)


def test_bilevel_and_palette_pictures_open(save, scene):
    assert open_picture(save(scene.convert("1"), "a.png")).rgb.getextrema()[0] == (0, 255)
    assert difference(open_picture(save(scene.quantize(16), "b.png")).rgb, scene) <= TOLERANCE


def test_cmyk_without_a_profile_keeps_its_colours(save, scene):
    decoded = open_picture(save(scene.convert("CMYK"), "a.jpg", **FINE))
    assert difference(decoded.rgb, scene) <= TOLERANCE
    assert decoded.notes == ("CMYK without a colour profile",)


def wide_gamut_profile() -> bytes:
    """Linear sRGB primaries: far enough from sRGB that ignoring it shows."""
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    return lab.tobytes()


def adobe_like_profile() -> bytes:
    """A minimal matrix profile: sRGB's primaries with a gamma of 1.0, so mid grey is much brighter than in sRGB."""

    def s15(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    def xyz(x: float, y: float, z: float) -> bytes:
        return b"XYZ \0\0\0\0" + s15(x) + s15(y) + s15(z)

    text = b"desc\0\0\0\0" + struct.pack(">I", 7) + b"linear\0" + b"\0" * 78
    gamma = b"curv\0\0\0\0" + struct.pack(">I", 1) + struct.pack(">H", 256) + b"\0\0"
    tags = [
        (b"desc", text + b"\0" * (-len(text) % 4)), (b"wtpt", xyz(0.9642, 1.0, 0.8249)),
        (b"rXYZ", xyz(0.4360, 0.2225, 0.0139)), (b"gXYZ", xyz(0.3851, 0.7169, 0.0971)),
        (b"bXYZ", xyz(0.1431, 0.0606, 0.7141)),
        (b"rTRC", gamma), (b"gTRC", gamma), (b"bTRC", gamma),
    ]  # fmt: skip
    offset, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, data in tags:
        table += name + struct.pack(">II", offset + len(body), len(data))
        body += data
    size = offset + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    head += b"\0" * 12 + b"acsp" + b"\0" * 28 + s15(0.9642) + s15(1.0) + s15(0.8249)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def test_a_colour_profile_is_converted_to_srgb(save):
    """In linear light 55 of 255 is sRGB's 128 (IEC 61966-2-1)."""
    decoded = open_picture(save(Image.new("RGB", (8, 8), (55, 55, 55)), "a.png", icc_profile=adobe_like_profile()))
    assert decoded.rgb.getpixel((4, 4)) == pytest.approx((128, 128, 128), abs=2)
    assert decoded.notes == ("colours converted to sRGB from RGB with its profile",)


def test_a_profile_of_srgb_changes_nothing(save, scene):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    decoded = open_picture(save(scene, "a.png", icc_profile=profile))
    assert (difference(decoded.rgb, scene), decoded.notes) == (0, ())


@pytest.mark.parametrize("profile", [b"garbage", wide_gamut_profile()], ids=["broken", "of another colour space"])
def test_a_useless_profile_is_ignored_with_a_note(save, scene, profile):
    decoded = open_picture(save(scene, "a.png", icc_profile=profile))
    assert difference(decoded.rgb, scene) == 0
    assert decoded.notes == ("unreadable colour profile ignored",)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_many_is_used(save, scene, encoded, kind):
    frames = [Image.new("RGB", scene.size, colour) for colour in ("green", "navy")]
    data = encoded(scene, kind, save_all=True, append_images=frames, **(LOSSLESS if kind == "WEBP" else {}))
    decoded = open_picture(save(data, "a.gif"))
    assert difference(decoded.rgb, scene) <= TOLERANCE
    assert decoded.notes == ("first of several frames used",)


def test_a_phones_second_view_is_not_an_animation(save, scene, encoded):
    data = encoded(scene, "MPO", save_all=True, append_images=[scene.rotate(180)], **FINE)
    decoded = open_picture(save(data, "a.jpg"))
    assert difference(decoded.rgb, scene) <= TOLERANCE
    assert decoded.notes == ()


SVG = b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>"
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EOF\n"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"), (b"\n <!DOCTYPE html><html>no such key</html>", "is a web page"),
        (SVG, "is a web page or drawing"),
        (EPS, "is not a JPEG"), (b"%PDF-1.7\n", "is not a JPEG"), (b"\0" * 100, "is not a JPEG"),
        (png_header(60_000, 60_000), "has more than 64 million"), (png_header(13_000, 13_000), "13000x13000"),
        (png_header(16_385, 4_000), "64 million"), (png_header(16_400, 3_900), "at most 16384 px a side"),
        (png_header(20_000, 2), "at most 16384 px"), (png_header(10_000, 2), "longer than 4:1"),
        (png_header(64, 64), "cut off"),
    ],
)  # fmt: skip
def test_what_is_no_usable_picture_is_refused_in_words(save, content, problem):
    with pytest.raises(ImagesUnusable, match=problem):
        open_picture(save(content, "a.jpg"))


def test_a_bomb_is_refused_before_a_pixel_is_decoded(save, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ImagesUnusable, match="64 million"):
        open_picture(save(png_header(9_000, 9_000), "a.png"))


def test_a_file_over_the_size_limit_is_not_opened(save, monkeypatch):
    monkeypatch.setattr(decode, "MAX_PICTURE_BYTES", 1 << 20)
    with pytest.raises(ImagesUnusable, match=r"is 2 MB, at most 1 MB"):
        open_picture(save(bytes(2 << 20), "a.png"))


def test_text_bombs_in_a_png_are_refused(save):
    text = b"a\0\0" + zlib.compress(bytes(3 << 20), 9)
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    with pytest.raises(ImagesUnusable):
        open_picture(save(png_header(8, 8, body=chunk), "a.png"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "GIF"])
def test_half_a_file_is_refused(save, photo, encoded, kind):
    data = encoded(photo(1), kind)
    with pytest.raises(ImagesUnusable, match="damaged"):
        open_picture(save(data[: len(data) // 2], "a.jpg"))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "BMP"])
def test_a_file_one_byte_short_is_refused(save, photo, encoded, kind):
    with pytest.raises(ImagesUnusable, match="damaged"):
        open_picture(save(encoded(photo(1), kind)[:-1], "a.jpg"))


def test_half_a_heic_is_refused(save):
    data = Path(__file__).with_name("quadrant.heic").read_bytes()
    with pytest.raises(ImagesUnusable, match="damaged"):
        open_picture(save(data[: len(data) // 2], "a.heic"))


def test_what_is_glued_behind_a_picture_does_not_survive(save, scene, encoded):
    decoded = open_picture(save(encoded(scene) + b"PK\3\4 <script>", "a.png"))
    buffer = io.BytesIO()
    decoded.rgb.save(buffer, "PNG")
    assert b"<script>" not in buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "GIF"])
def test_flipped_bytes_end_in_a_picture_or_in_words(save, photo, encoded, kind):
    data = encoded(photo(2).resize((24, 20)), kind)
    rng = np.random.default_rng(7)
    for _ in range(40):
        damaged = bytearray(data)
        for at in rng.integers(0, len(data), 3):
            damaged[at] = int(rng.integers(0, 256))
        with contextlib.suppress(ImagesUnusable):  # any other error fails
            assert open_picture(save(bytes(damaged), "a.bin")).rgb.mode == "RGB"
