"""A subject's fetched files become pictures at the training resolution, or one error that lists every bad picture.

Called by the prepare stage. A bad picture is an error, never skipped: nobody notices one picture less until the model
is bad. Whatever is not a picture is ignored and counted. Pixels are cropped as they are read, so that a hundred
12-megapixel photos never lie in memory, and no second copy of them on the disk, at the same time.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dreambooth_api.spec import Captions
from dreambooth_job.data import archive, captions, crops, duplicates
from dreambooth_job.data.captions import Caption, Sidecars
from dreambooth_job.data.crops import Box
from dreambooth_job.data.decode import open_picture
from dreambooth_job.data.duplicates import Fingerprint
from dreambooth_job.data.listing import advice, base_name, found, in_kohya_folder, kind_of
from dreambooth_job.errors import ImagesMissing, ImagesUnusable, InvalidSpec

File = tuple[str, Path]  # key or entry name as it stands in the bucket or zip, where its bytes lie


@dataclass(frozen=True)
class Picture:
    index: int  # from 1, in the order of the keys
    base_name: str  # safe to print
    width_px: int  # upright, before the crop
    height_px: int
    crop_box: Box
    pixels: np.ndarray  # uint8 [resolution, resolution, 3], sRGB
    caption: str | None  # None: the subject's prompt is used
    sha256: str  # of the upright sRGB pixels before the crop
    fingerprint: Fingerprint
    notes: tuple[str, ...]  # what was done to it, for the report


@dataclass(frozen=True)
class SubjectPictures:
    pictures: tuple[Picture, ...]
    duplicate_groups: tuple[tuple[int, ...], ...]  # picture indices that look alike
    ignored: Counter[str]  # reason -> files
    notes: tuple[str, ...]  # sentences about the whole set, for the report

    @property
    def captioned(self) -> int:
        return sum(p.caption is not None for p in self.pictures)


def read_subject(
    files: Iterable[File], captions_mode: Captions, *, resolution: int, scratch: Path, name: str,
    ignored: Counter[str] | None = None,
) -> SubjectPictures:  # fmt: skip
    """Reads pictures, captions and zips that `listing.classify` chose; `ignored` is what it counted besides.

    `name` says whose they are in errors ("subject sks"); zips are unpacked below `scratch`. Caption mode `auto` means
    `sidecar` when any sidecar exists, else `none`; with `sidecar` a picture without one gets the subject's prompt.
    Raises ImagesMissing, ImagesUnusable (naming every bad picture at once), InvalidSpec (sidecars asked for, none).
    """
    members, inside = _open_archives(files, scratch)
    counted = Counter(ignored or {}) + inside
    picture_files = [f for f in members if kind_of(_name(f)) == "picture"]
    if not picture_files:
        raise ImagesMissing(f"{name}: no picture in what was found{found(counted)}; {advice()}")
    sidecars = Sidecars(f for f in members if kind_of(_name(f)) == "caption")
    mode = _resolve(captions_mode, picture_files, sidecars, name)
    pictures = _read_all(picture_files, sidecars, mode, resolution, name)
    groups = _duplicates(pictures)
    notes = _set_notes(pictures, groups, counted, any(in_kohya_folder(_name(f)) for f in picture_files), mode)
    return SubjectPictures(tuple(pictures), groups, counted, notes)


def _open_archives(files: Iterable[File], scratch: Path) -> tuple[list[File], Counter[str]]:
    members: list[File] = []
    ignored: Counter[str] = Counter()
    for number, (key, path) in enumerate(sorted(files, key=_name)):
        if kind_of(key) == "archive":
            unpacked = archive.unpack(path, scratch / f"zip-{number}", base_name(key))
            # The zip's own key goes first, so that a.jpg in one zip never takes the caption a.txt of another.
            members += [(f"{key}/{entry.replace(chr(92), '/')}", at) for entry, at in sorted(unpacked.files, key=_name)]
            ignored += unpacked.ignored
        else:
            members.append((key, path))
    return members, ignored


def _resolve(mode: Captions, pictures: Sequence[File], sidecars: Sidecars, name: str) -> Captions:
    has_any = any(sidecars.candidates(_name(f)) for f in pictures)
    if mode is Captions.SIDECAR and not has_any:
        raise InvalidSpec(
            f"{name}: images.captions is sidecar but none of {len(pictures)} pictures has a .txt or .caption file of "
            "the same name; add them or set images.captions: none"
        )
    return (Captions.SIDECAR if has_any else Captions.NONE) if mode is Captions.AUTO else mode


def _read_all(
    pictures: Sequence[File], sidecars: Sidecars, mode: Captions, resolution: int, name: str
) -> list[Picture]:
    read: list[Picture] = []
    problems: list[str] = []
    for index, file in enumerate(pictures, 1):
        try:
            read.append(_read(index, file, _caption(file, sidecars, mode), resolution))
        except ImagesUnusable as problem:
            problems.append(f"image {index} of {len(pictures)} ({base_name(_name(file))}) {problem}")
    if problems:
        raise ImagesUnusable(
            f"{name}: {len(problems)} of {len(pictures)} pictures cannot be used, remove or replace them: "
            + "; ".join(problems)
        )
    return read


def _caption(file: File, sidecars: Sidecars, mode: Captions) -> Caption:
    if mode is Captions.FILENAME:
        return captions.from_file_name(_name(file))
    if mode is Captions.NONE:
        return Caption(None)
    path = sidecars.of(_name(file))
    return captions.from_file(path) if path else Caption(None, ("no caption file, the prompt is used",))


def _read(index: int, file: File, caption: Caption, resolution: int) -> Picture:
    key, path = file
    decoded = open_picture(path)
    width, height = decoded.rgb.size
    size_notes = crops.check_size(width, height, resolution)
    box = crops.crop_box(decoded.rgb, decoded.alpha)
    return Picture(
        index, base_name(key), width, height, box, crops.square(decoded.rgb, box, resolution), caption.text,
        _digest(decoded.rgb), duplicates.fingerprint(decoded.rgb), (*decoded.notes, *size_notes, *caption.notes),
    )  # fmt: skip


def _digest(rgb: Image.Image) -> str:
    return hashlib.sha256(f"{rgb.width}x{rgb.height}:".encode() + rgb.tobytes()).hexdigest()


def _duplicates(pictures: Sequence[Picture]) -> tuple[tuple[int, ...], ...]:
    return tuple(
        tuple(pictures[i].index for i in group) for group in duplicates.groups([p.fingerprint for p in pictures])
    )


def _set_notes(
    pictures: Sequence[Picture], groups: Sequence[Sequence[int]], ignored: Counter[str], kohya: bool, mode: Captions
) -> tuple[str, ...]:
    notes = [f"{_same(pictures, g)}: images {', '.join(map(str, g))}; keep one of them" for g in groups]
    if ignored:
        notes.append(f"ignored{found(ignored)}")
    if kohya:
        notes.append("the numbers in folder names such as 10_name are not used: steps are counted per picture")
    without = sum(p.caption is None for p in pictures)
    if mode is not Captions.NONE and without:
        notes.append(f"{without} of {len(pictures)} pictures have no caption: the prompt is used")
    return tuple(notes)


def _same(pictures: Sequence[Picture], group: Sequence[int]) -> str:
    return "the same picture" if len({pictures[i - 1].sha256 for i in group}) == 1 else "pictures that look alike"


def _name(file: File) -> str:
    return file[0]
