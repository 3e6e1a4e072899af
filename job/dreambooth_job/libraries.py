"""Torch, diffusers and our modules on top of them: seconds of one core, spent while the inputs are being fetched."""

from __future__ import annotations

import importlib
import threading
import time
from contextlib import suppress

import structlog

from dreambooth_job.interruption import Interruption

log = structlog.get_logger()

MODULES = ("dreambooth_job.stages.load", "dreambooth_job.stages.train", "dreambooth_job.stages.export")
_POLL_SECONDS = 0.1


class Libraries:
    """Imports `MODULES` in a thread. What the caller needs meanwhile must be imported before."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._thread = threading.Thread(target=self._import, name="libraries", daemon=True)
        self._thread.start()

    def wait(self, interruption: Interruption) -> None:
        """Until an import statement costs nothing, or fails with the error that the thread met. Raises Interrupted."""
        while self._thread.is_alive():
            interruption.check()
            self._thread.join(_POLL_SECONDS)

    def _import(self) -> None:
        with suppress(Exception):  # the caller's own import statement meets it again and can tell it
            for name in MODULES:
                importlib.import_module(name)
            log.info("libraries_imported", seconds=round(time.monotonic() - self._started, 1))
