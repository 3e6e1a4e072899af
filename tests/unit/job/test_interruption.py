"""SIGTERM is heard in whatever the main thread is doing."""

from __future__ import annotations

import subprocess
import sys

# The lock is what a thread holds for a moment when it begins and when it ends to wait on the event.
PROGRAM = """
import os, signal
from dreambooth_job.interruption import Interruption
interruption = Interruption()
interruption.listen()
with interruption.event._cond:
    os.kill(os.getpid(), signal.SIGTERM)
assert interruption.event.wait(50)
"""


def test_a_signal_that_comes_while_the_event_is_locked_is_heard() -> None:
    environment = {"PYTHONPATH": ":".join(sys.path)}
    assert subprocess.run([sys.executable, "-c", PROGRAM], env=environment, timeout=60).returncode == 0
