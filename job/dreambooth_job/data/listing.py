"""Tells pictures, captions and zips apart by name, before anything is fetched. Called by the fetch stage.

Folders carry no meaning: flat, nested and kohya's `10_name` layouts read alike. What is not a picture is ignored and
counted by kind, so that the report can say "ignored: 3 x .mov" and an empty prefix can say what it holds instead.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from dreambooth_job.contracts import ObjectInfo
from dreambooth_job.errors import ImagesMissing, ImagesUnusable

JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")
OTHER_SUFFIXES = (".png", ".apng", ".webp", ".avif", ".heic", ".heif", ".hif", ".bmp", ".tif", ".tiff", ".gif")
PICTURE_SUFFIXES = frozenset((*JPEG_SUFFIXES, *OTHER_SUFFIXES))
CAPTION_SUFFIXES = frozenset((".txt", ".caption"))
MAX_PICTURES = 10_000  # more is a dataset, not a subject: likely the wrong prefix
MAX_PICTURE_BYTES = 64 << 20
MAX_ARCHIVE_BYTES = 4 << 30
SYSTEM_FILES = frozenset(("thumbs.db", "desktop.ini", "__macosx", "@eadir"))
KOHYA_FOLDER = re.compile(r"\d+_\S")


@dataclass(frozen=True)
class Listing:
    """Keys by kind, each sorted, and how many objects were ignored for which reason."""

    pictures: tuple[str, ...]
    captions: tuple[str, ...]
    archives: tuple[str, ...]
    ignored: Counter[str]

    def to_fetch(self) -> tuple[str, ...]:
        return self.pictures + self.captions + self.archives


def classify(objects: Iterable[ObjectInfo], name: str) -> Listing:
    """Sorts listed objects; `name` says whose they are in errors ("subject sks").

    Raises ImagesMissing when nothing can hold a picture, ImagesUnusable when a file is too large to be fetched at all.
    """
    sizes = {o.key: o.size_bytes for o in objects}
    kinds = {key: kind_of(key) for key in sorted(sizes)}
    picked = {kind: tuple(k for k in kinds if kinds[k] == kind) for kind in ("picture", "caption", "archive")}
    listing = Listing(picked["picture"], picked["caption"], picked["archive"], Counter(ignored_kinds(kinds.values())))
    if not listing.pictures and not listing.archives:
        raise ImagesMissing(f"{name}: no picture among {len(sizes)} objects{found(listing.ignored)}; {advice()}")
    _check_sizes(listing, sizes, name)
    return listing


def kind_of(key: str) -> str:
    """`picture`, `caption`, `archive`, `folder`, or the reason to ignore it; the content decides later."""
    if key.endswith("/"):
        return "folder"
    path = PurePosixPath(key)
    if any(_is_hidden(part) for part in path.parts):
        return "hidden or system file"
    suffix = path.suffix.lower()
    if suffix in PICTURE_SUFFIXES:
        return "picture"
    if suffix in CAPTION_SUFFIXES:
        return "caption"
    return "archive" if suffix == ".zip" else printable(suffix) or "no file extension"


def _is_hidden(part: str) -> bool:
    return (part.startswith(".") and part not in (".", "..")) or part.lower() in SYSTEM_FILES


def ignored_kinds(kinds: Iterable[str]) -> list[str]:
    return [kind for kind in kinds if kind not in ("picture", "caption", "archive", "folder")]


def base_name(key: str) -> str:
    """The last part of a key, safe to print: no control, bidi or zero-width characters, at most 80 characters."""
    return printable(key.rstrip("/").rpartition("/")[2])[:80] or "unnamed"


def printable(text: str) -> str:
    return "".join(c for c in text if not unicodedata.category(c).startswith("C"))


def in_kohya_folder(key: str) -> bool:
    return any(KOHYA_FOLDER.match(part) for part in key.split("/")[:-1])


def found(ignored: Counter[str]) -> str:
    """`" (3 x .mov, 1 x .pdf)"`, or nothing."""
    return f" ({', '.join(f'{n} x {kind}' for kind, n in ignored.most_common(5))})" if ignored else ""


def advice() -> str:
    return "check the prefix letter by letter; JPEG, PNG, WebP, AVIF, HEIC, BMP, TIFF and GIF are read, also from a zip"


def _check_sizes(listing: Listing, sizes: dict[str, int], name: str) -> None:
    if len(listing.pictures) > MAX_PICTURES:
        raise ImagesUnusable(f"{name}: {len(listing.pictures)} pictures, at most {MAX_PICTURES}; narrow the prefix")
    count = len(listing.pictures)
    problems = [
        f"image {i} of {count} ({base_name(key)}) is {sizes[key] >> 20} MB, at most {MAX_PICTURE_BYTES >> 20} MB"
        for i, key in enumerate(listing.pictures, 1)
        if sizes[key] > MAX_PICTURE_BYTES
    ] + [
        f"{base_name(key)} is {sizes[key] >> 20} MB, a zip may have at most {MAX_ARCHIVE_BYTES >> 30} GiB"
        for key in listing.archives
        if sizes[key] > MAX_ARCHIVE_BYTES
    ]
    if problems:
        raise ImagesUnusable(f"{name}: remove or replace: {'; '.join(problems)}")
