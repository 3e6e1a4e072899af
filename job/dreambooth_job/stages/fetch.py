"""Stage 1: everything the run reads, pinned by ETag, verified, under local names that no key decides."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dreambooth_api.spec import BaseModelSource, Subject, TrainingJobSpec
from dreambooth_job.base_files import select_files
from dreambooth_job.contracts import ObjectInfo
from dreambooth_job.data.listing import classify
from dreambooth_job.data.pictures import File
from dreambooth_job.errors import ScratchFull, StorageNotFound
from dreambooth_job.explain import no_room
from dreambooth_job.storage.digests import sha256_of
from dreambooth_job.storage.manifest import Input
from dreambooth_job.storage.s3 import S3Store
from dreambooth_job.storage.uris import S3Uri, parse
from dreambooth_job.workspace import Workspace

SMALL_FILES_AT_ONCE = 8  # pictures; a large file is fetched in parallel parts by the store itself

OpenStore = Callable[[str], S3Store]  # bucket name -> store


@dataclass(frozen=True)
class SubjectFiles:
    """One subject's pictures, captions and archives, and those of its class."""

    images: Sequence[File]
    class_images: Sequence[File]
    ignored: Counter[str]


@dataclass(frozen=True)
class Inputs:
    base: Path  # a diffusers folder or a single file
    config: Path | None
    vae: Path | None
    subjects: tuple[SubjectFiles, ...]
    read: dict[str, tuple[Input, ...]]  # by spec field, as the manifest records it: which bytes, without their names
    base_digest: str


def fetch(spec: TrainingJobSpec, open_store: OpenStore, workspace: Workspace) -> Inputs:
    """Raises what the store raises, ImagesMissing, and ScratchFull before the first byte when it cannot fit."""
    fetching = _Fetching(open_store, workspace)
    base, config, vae = fetching.plan_model(spec.base_model)
    subjects = tuple(fetching.plan_subject(number, subject) for number, subject in enumerate(spec.subjects))
    return Inputs(base, config, vae, subjects, fetching.run(), digest_of(base))


@dataclass(frozen=True)
class _Wanted:
    field: str  # "subjects[0].images"
    store: S3Store
    info: ObjectInfo
    to: Path
    sha256: str | None = None


class _Fetching:
    """Lists first, so that a wrong prefix or a full disk is found out before anything is downloaded."""

    def __init__(self, open_store: OpenStore, workspace: Workspace) -> None:
        self._open_store, self._workspace = open_store, workspace
        self._wanted: list[_Wanted] = []

    def plan_model(self, source: BaseModelSource) -> tuple[Path, Path | None, Path | None]:
        base = self._plan_source("baseModel.uri", parse(source.uri), "model", source.sha256)
        config = (
            self._plan_source("baseModel.configUri", parse(source.config_uri), "config") if source.config_uri else None
        )
        vae = self._plan_source("baseModel.vae", parse(source.vae), "vae") if source.vae else None
        return base, config, vae

    def plan_subject(self, number: int, subject: Subject) -> SubjectFiles:
        field, said = f"subjects[{number}].images", f"subject {subject.token}"
        images, ignored = self._plan_pictures(field, parse(subject.images.uri), f"subject-{number}", said)
        if subject.class_images is None or subject.class_images.uri is None:
            return SubjectFiles(images, (), ignored)
        field, said = f"subjects[{number}].classImages", f"class images of subject {subject.token}"
        class_images, _ = self._plan_pictures(field, parse(subject.class_images.uri), f"class-{number}", said)
        return SubjectFiles(images, class_images, ignored)

    def run(self) -> dict[str, tuple[Input, ...]]:
        self._check_space()
        with ThreadPoolExecutor(SMALL_FILES_AT_ONCE) as pool:
            checked = list(pool.map(lambda want: want.store.get(want.info, want.to, want.sha256), self._wanted))
        read: dict[str, tuple[Input, ...]] = {}
        for want, verification in zip(self._wanted, checked, strict=True):
            known = read.get(want.field, ())
            record = Input(index=len(known), size_bytes=want.info.size_bytes, etag=want.info.etag,
                           verification=verification)  # fmt: skip
            read[want.field] = (*known, record)
        return read

    def _plan_source(self, field: str, uri: S3Uri, name: str, sha256: str | None = None) -> Path:
        """A single file keeps its suffix, a folder the few relative paths that its reader knows."""
        store = self._open_store(uri.bucket)
        if PurePosixPath(uri.key).suffix in (".safetensors", ".ckpt"):
            if (info := store.head(uri.key)) is None:
                raise StorageNotFound(
                    f"{uri} does not exist; keys are case-sensitive. Correct baseModel and apply again"
                )
            file = self._workspace.base / f"{name}{PurePosixPath(uri.key).suffix}"
            self._wanted.append(_Wanted(field, store, info, file, sha256))
            return file
        listed = {info.key.removeprefix(uri.prefix): info for info in store.list(uri.prefix)}
        paths = select_files(listed)
        if not paths:
            raise StorageNotFound(
                f"{uri} holds no diffusers folder ({len(listed)} objects, no model_index.json); "
                "end the URI in .safetensors or .ckpt for a single file"
            )
        for path in paths:
            to = self._workspace.base / name / path
            to.parent.mkdir(parents=True, exist_ok=True)
            self._wanted.append(_Wanted(field, store, listed[path], to))
        return self._workspace.base / name

    def _plan_pictures(self, field: str, uri: S3Uri, name: str, said: str) -> tuple[list[File], Counter[str]]:
        store = self._open_store(uri.bucket)
        if uri.key.lower().endswith(".zip"):
            info = store.head(uri.key)
            if info is None:
                raise StorageNotFound(f"{said}: the zip does not exist; keys are case-sensitive")
            objects = [info]
        else:
            objects = list(store.list(uri.prefix))
        listing = classify(objects, said)
        infos = {info.key: info for info in objects}
        files = []
        for index, key in enumerate(listing.to_fetch()):
            to = self._workspace.inputs / name / f"{index:05d}{PurePosixPath(key).suffix.lower()[:8]}"
            to.parent.mkdir(exist_ok=True)
            self._wanted.append(_Wanted(field, store, infos[key], to))
            files.append((key, to))
        return files, listing.ignored

    def _check_space(self) -> None:
        needed = sum(want.info.size_bytes for want in self._wanted)
        free = shutil.disk_usage(self._workspace.root).free
        if needed > free:
            raise ScratchFull(no_room(self._workspace.root, needed))


def digest_of(source: Path) -> str:
    """SHA-256 of a base model: of the file, or of a folder's sorted (path, SHA-256) lines."""
    if source.is_file():
        return sha256_of(source)
    lines = [f"{path.relative_to(source)} {sha256_of(path)}\n" for path in sorted(source.rglob("*")) if path.is_file()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
