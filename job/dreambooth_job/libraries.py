"""Torch, diffusers and our modules on top of them: seconds of one core, spent while the inputs are being fetched."""

from __future__ import annotations

import importlib
import threading
import time

import structlog

from dreambooth_job.interruption import Interruption

log = structlog.get_logger()

MODULES = ("dreambooth_job.stages.load", "dreambooth_job.stages.train", "dreambooth_job.stages.export")
_POLL_SECONDS = 0.1


class Libraries:
    """Imports `MODULES` in a thread. What the caller needs meanwhile must be imported before."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._import, name="libraries", daemon=True)
        self._thread.start()

    def wait(self, interruption: Interruption) -> None:
        """Until an import statement costs nothing. Raises Interrupted, and the error that the thread met."""
        while self._thread.is_alive():
            interruption.check()
            self._thread.join(_POLL_SECONDS)
        if self._error:  # torch, imported again after half an import, fails with another error that misleads
            raise self._error

    def _import(self) -> None:
        try:
            for name in MODULES:
                importlib.import_module(name)
        except Exception as error:
            self._error = error
        else:
            log.info("libraries_imported", seconds=round(time.monotonic() - self._started, 1))
