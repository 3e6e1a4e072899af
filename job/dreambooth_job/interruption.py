"""SIGTERM, seen at step boundaries and stage edges."""

from __future__ import annotations

import signal
import threading

from dreambooth_job.errors import Interrupted


class Interruption:
    """Set once by SIGTERM; long work asks it, or waits on `event`, and leaves at the next safe point."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def listen(self) -> None:
        signal.signal(signal.SIGTERM, lambda *_: self.event.set())

    def __call__(self) -> bool:
        return self.event.is_set()

    def request(self) -> None:
        self.event.set()

    def check(self) -> None:
        """Raises Interrupted when the pod was asked to stop."""
        if self():
            raise Interrupted("The pod was asked to stop.")
