"""The words beside a picture: from its file name, from a sidecar file, or derived from the subject's two names.

Text is only ever a training caption: it is cleaned and cut, and `{token}`, `%s` or `__wild__` in it stay as they are.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dreambooth_job.data.listing import base_name, printable
from dreambooth_job.errors import ImagesUnusable

MAX_CAPTION_CHARS = 2_000
MAX_SIDECAR_BYTES = 64 << 10
COUNTER = re.compile(r"^\d+$|^\(\d+\)$")
# What cameras, phones and browsers call a picture: says nothing of it, so it is no caption.
CAMERA_NAME = re.compile(
    r"(img|image|dsc[a-z]?|dcim|pxl|mvimg|photo|picture|screenshot|download|unnamed|whatsapp image|p|s)?"
    r"([\d\W_]|wa|at|am|pm|mp|cover|portrait|edited|copy)*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Caption:
    text: str | None  # None: the subject's prompt is used
    notes: tuple[str, ...] = ()


def instance_prompt(token: str, class_name: str) -> str:
    return f"a photo of a {token} {class_name}"


def class_prompt(class_name: str) -> str:
    return f"a photo of a {class_name}"


def with_token(caption: str, token: str, class_name: str) -> tuple[str, bool]:
    """The caption with the token in it, and whether `token class, ` had to be put before it.

    Without the token nothing would be learned under it. Case and punctuation around the token do not matter.
    """
    if re.search(rf"(?<!\w){re.escape(token)}(?!\w)", caption, re.IGNORECASE):
        return caption, False
    return f"{token} {class_name}, {caption}", True


def from_file_name(key: str) -> Caption:
    """`a_photo_of-x (3).jpg` says "a photo of x"; a camera's `IMG_1234.jpg` says nothing."""
    stem = _stem(base_name(key))
    if CAMERA_NAME.fullmatch(stem):
        return Caption(None, ("its file name says nothing, the prompt is used",))
    words = re.sub(r"(\(\d+\))", r" \1 ", re.sub(r"[_\-\s+.]+", " ", stem)).split()
    while words and COUNTER.match(words[-1]):
        words.pop()
    while words and COUNTER.match(words[0]):
        words.pop(0)
    return _cleaned(" ".join(words))


def from_file(path: Path) -> Caption:
    """Reads a sidecar. Raises ImagesUnusable with a predicate, as decode.open_picture does."""
    if path.stat().st_size > MAX_SIDECAR_BYTES:
        raise ImagesUnusable(f"has a caption file of more than {MAX_SIDECAR_BYTES >> 10} KB; shorten it")
    data = path.read_bytes()
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return _cleaned(data.decode(encoding))
    except UnicodeDecodeError as error:
        raise ImagesUnusable("has a caption file that is not UTF-8 text; save it as UTF-8") from error


class Sidecars:
    """Finds the caption file of a picture: the same folder and stem, letter by letter, then in NFC.

    NFC because a Mac writes names decomposed and everybody else composed, so one pair may be spelled in two ways.
    """

    def __init__(self, files: Iterable[tuple[str, Path]]) -> None:
        self._exact: dict[str, list[tuple[str, Path]]] = {}
        self._composed: dict[str, list[tuple[str, Path]]] = {}
        for file in files:
            self._exact.setdefault(_stem(file[0]), []).append(file)
            self._composed.setdefault(_nfc(_stem(file[0])), []).append(file)

    def candidates(self, picture_key: str) -> list[tuple[str, Path]]:
        return self._exact.get(_stem(picture_key)) or self._composed.get(_nfc(_stem(picture_key)), [])

    def of(self, picture_key: str) -> Path | None:
        """Raises ImagesUnusable (a predicate) when there are two."""
        found = self.candidates(picture_key)
        if len(found) > 1:
            names = " and ".join(base_name(key) for key, _ in found)
            raise ImagesUnusable(f"has {len(found)} caption files, {names}; keep one")
        return found[0][1] if found else None


def _cleaned(text: str) -> Caption:
    """One line: white space of any kind becomes one space; control, bidi and zero-width characters go."""
    words = " ".join(printable("".join(" " if c.isspace() else c for c in text)).split())
    if len(words) > MAX_CAPTION_CHARS:
        return Caption(words[:MAX_CAPTION_CHARS], (f"caption cut to {MAX_CAPTION_CHARS} characters",))
    return Caption(words or None)


def _stem(key: str) -> str:
    """Everything before the last dot of the last part, folders included."""
    folder, slash, name = key.rpartition("/")
    return folder + slash + (name.rpartition(".")[0] or name)


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)
