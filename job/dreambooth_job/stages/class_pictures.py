"""Pictures of the class, drawn by the base itself, once per TrainingJob: an attempt that resumes fetches them.

They lie beside the checkpoints as one file a set and go with those, once the result stands. A set is named by all that
decides its pixels, so a changed base or setting never meets an old one.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import structlog

from dreambooth_job.config import RunConfig
from dreambooth_job.contracts import Family, Model, ObjectStore
from dreambooth_job.data.captions import class_prompt
from dreambooth_job.errors import InputChanged, InputCorrupt, StorageError
from dreambooth_job.interruption import Interruption
from dreambooth_job.training.sampling import draw

log = structlog.get_logger()

AT_ONCE = 8
PUT_SECONDS = 60  # of patience, while a GPU stands still
_OVERHEAD_BYTES = 4096  # of the file around the pixels
_UNREADABLE = (ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile, zlib.error)  # numpy.load


@dataclass(frozen=True)
class Shelf:
    """Where drawn sets wait for the next attempt."""

    store: ObjectStore
    prefix: str
    folder: Path  # in scratch

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray | None:
        """The set as it was put, uint8 of this shape; None when there is none, or none that can be used."""
        info = self.store.head(self.prefix + name)
        if info is None or info.size_bytes > np.prod(shape) + _OVERHEAD_BYTES * shape[0]:
            return None
        path = self.folder / name
        try:
            self.store.get(info, path)
            with path.open("rb") as file:
                pictures = np.load(file)["pictures"]
        except (InputCorrupt, InputChanged, *_UNREADABLE) as error:
            log.warning("class_pictures_damaged", error=type(error).__name__)
            return None
        finally:
            path.unlink(missing_ok=True)
        return pictures if pictures.shape == shape and pictures.dtype == np.uint8 else None

    def put(self, name: str, pictures: np.ndarray) -> None:
        """A store that does not take them costs the next attempt the drawing, and this one a minute at most."""
        path = self.folder / f"{name}.npz"
        np.savez_compressed(path, pictures=pictures)
        try:
            self.store.within(PUT_SECONDS).put(path, self.prefix + name)
        except StorageError as error:
            log.warning("class_pictures_not_kept", reason=error.reason.name)
        path.unlink()


@dataclass(frozen=True)
class Drawing:
    """What decides the pictures, and with what they are drawn."""

    family: Family
    model: Model
    config: RunConfig
    base_digest: str
    seed: int

    def pictures(self, class_name: str, count: int, shelf: Shelf, interruption: Interruption) -> np.ndarray:
        """uint8 [count, H, W, 3]; picture n depends on (seed, n) alone. Raises Interrupted."""
        name, side = self._name(class_name, count), self.config.resolution
        found = shelf.take(name, (count, side, side, 3))
        if found is None:
            found = self._draw(class_prompt(class_name), count, interruption)
            shelf.put(name, found)
            log.info("class_pictures_drawn", count=count)
        else:
            log.info("class_pictures_fetched", count=count)
        return found

    def _name(self, class_name: str, count: int) -> str:
        config = self.config
        decides = [self.base_digest, class_prompt(class_name), count, self.seed, config.resolution, config.guidance,
                   config.training.precision]  # fmt: skip
        return hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:32]

    def _draw(self, prompt: str, count: int, interruption: Interruption) -> np.ndarray:
        drawn: list[np.ndarray] = []
        for start in range(0, count, AT_ONCE):
            interruption.check()
            numbers = range(start, min(start + AT_ONCE, count))
            pictures = draw(
                self.family, self.model, [prompt] * len(numbers), [self.seed + n for n in numbers],
                size_px=self.config.resolution, guidance=self.config.guidance,
                precision_name=self.config.training.precision, batch_size=AT_ONCE,
            )  # fmt: skip
            drawn += [np.asarray(picture) for picture in pictures]
        return np.stack(drawn)
