"""SIGTERM, seen at step boundaries and stage edges."""

from __future__ import annotations

import signal
import threading

from dreambooth_job.errors import Interrupted


class Interruption:
    """Set once by SIGTERM; long work asks it, or waits on `event`, and leaves at the next safe point.

    A thread waits for the signal. A handler would run between any two lines of the main thread, inside `event.wait`
    too, where that thread holds the lock that `event.set` needs: it would stand still until the pod is killed.
    """

    def __init__(self) -> None:
        self.event = threading.Event()

    def listen(self) -> None:
        """To be called before other threads are started: they inherit that SIGTERM is not for them."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=self._wait_for_signal, name="interruption", daemon=True).start()

    def _wait_for_signal(self) -> None:
        signal.sigwait({signal.SIGTERM})
        self.event.set()

    def __call__(self) -> bool:
        return self.event.is_set()

    def request(self) -> None:
        self.event.set()

    def check(self) -> None:
        """Raises Interrupted when the pod was asked to stop."""
        if self():
            raise Interrupted("The pod was asked to stop.")
