"""A piece of a file as a request's body: read as it is sent, watched, and given up as soon as nobody waits for it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from dreambooth_job.storage.failures import UploadLost
from dreambooth_job.storage.workers import Watchdog


class Slice:
    """Bytes [start, start + size) of a file as a request's body; the watchdog counts what is read of it."""

    def __init__(self, path: Path, start: int, size: int, window_seconds: float, cancelled: threading.Event) -> None:
        self._file = path.open("rb", buffering=0)
        self._start, self._size, self._offset = start, size, 0
        self._window_seconds, self._cancelled = window_seconds, cancelled
        self._watchdog = Watchdog(window_seconds)

    def __len__(self) -> int:
        return self._size

    def __enter__(self) -> Slice:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def tell(self) -> int:
        return self._offset

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """The signer reads the body once before it is sent: going back starts a new count."""
        self._offset = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._offset, os.SEEK_END: self._size}[whence]
        self._watchdog = Watchdog(self._window_seconds)
        return self._offset

    def read(self, size: int = -1) -> bytes:
        if self._cancelled.is_set():
            raise UploadLost  # nobody waits for this request any more
        rest = self._size - self._offset
        data = os.pread(self._file.fileno(), rest if size is None or size < 0 else min(size, rest), self._position)
        self._offset += len(data)
        self._watchdog.count(len(data))
        return data

    @property
    def _position(self) -> int:
        return self._start + self._offset
