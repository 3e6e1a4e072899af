"""The reason behind an error that no module of ours has raised, in words that quote nothing of it."""

from __future__ import annotations

import errno
import shutil
import traceback
from collections.abc import Iterator
from pathlib import Path

from dreambooth_api import reasons
from dreambooth_api.reasons import Reason

_FULL = (errno.ENOSPC, errno.EDQUOT)


def explain(error: BaseException, scratch: Path) -> tuple[Reason, str]:
    if type(error).__name__ == "OutOfMemoryError":  # torch's, and torch may not be loaded yet
        return reasons.OUT_OF_MEMORY, f"{reasons.OUT_OF_MEMORY.meaning} {reasons.OUT_OF_MEMORY.advice}"
    if any(map(_says_full, _chain(error))):
        return reasons.SCRATCH_FULL, no_room(scratch)
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):  # the latter is torch's, on the CPU
        return reasons.KILLED, "The process ran out of memory; raise runtime.resources.memory."
    return reasons.INTERNAL_ERROR, f"{type(error).__name__} in the job; the pod's log has the traceback."


def where(error: BaseException) -> list[str]:
    """The traceback without the errors' own texts, which may quote a file, a key or a prompt; innermost line last."""
    frames = traceback.extract_tb(error.__traceback__)
    cause = error.__cause__ or error.__context__
    before = [*where(cause), f"then {type(error).__name__}"] if cause else []
    return [*before, *(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames)]


def no_room(scratch: Path, needed_bytes: int = 0) -> str:
    """What the scratch volume holds and which size would do; a model's checkpoint and result want room beside it."""
    volume = shutil.disk_usage(scratch)
    enough = 2 * max(volume.total, volume.used + needed_bytes)
    wanted = f"{size(needed_bytes)} more are needed and " if needed_bytes else ""
    return (
        f"The scratch volume is full: {wanted}{size(volume.free)} of {size(volume.total)} are free. With "
        f"runtime.scratch.medium: Memory raise runtime.scratch.sizeLimit to {size(enough)}; with Disk it is the node's "
        "disk that is full."
    )


def size(count_bytes: int) -> str:
    return f"{count_bytes / 2**30:.1f} GiB" if count_bytes >= 2**30 else f"{count_bytes / 2**20:.0f} MiB"


def _says_full(error: BaseException) -> bool:
    """safetensors writes in Rust, and the number of the system's error is left in its text alone."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    return any(f"(os error {number})" in str(error) for number in _FULL)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
