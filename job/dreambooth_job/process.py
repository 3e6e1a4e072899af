"""What a process with pictures in its memory must not leave: a core dump, a window for others, a life of its own."""

from __future__ import annotations

import ctypes
import resource
import signal
import sys

_SET_PARENT_DEATH_SIGNAL, _SET_DUMPABLE = 1, 4  # linux/prctl.h


def keep_memory_private() -> None:
    """No core dump, whatever the node's core_pattern says, and no other process of the user may read its memory."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # not enough where the node pipes dumps to a program
    _prctl(_SET_DUMPABLE, 0)


def die_with_parent() -> None:
    """For the trainer: without its supervisor nobody empties scratch. (A container dies with its first one anyway.)"""
    _prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    """Each exec sets dumpable again, so every process calls for itself."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
