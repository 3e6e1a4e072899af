"""The reason behind a library's error, and a message that says what to do and quotes nothing."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from safetensors import SafetensorError

from dreambooth_api import reasons
from dreambooth_job.explain import explain, no_room, size, where


class OutOfMemoryError(RuntimeError):
    """Named as torch's, which is found by its name because torch may not be loaded yet."""


def wrapped(inner: Exception) -> Exception:
    outer = RuntimeError("rex.jpg could not be written")
    outer.__context__ = inner
    return outer


ERRORS = {
    "disk full": (OSError(errno.ENOSPC, "No space left on device"), reasons.SCRATCH_FULL),
    "quota": (OSError(errno.EDQUOT, "Disk quota exceeded"), reasons.SCRATCH_FULL),
    "disk full, in another's words": (wrapped(OSError(errno.ENOSPC, "rex.jpg")), reasons.SCRATCH_FULL),
    "disk full, in Rust": (
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        reasons.SCRATCH_FULL,
    ),
    "disk broken": (OSError(errno.EIO, "rex.jpg"), reasons.INTERNAL_ERROR),
    "GPU memory": (OutOfMemoryError("CUDA out of memory"), reasons.OUT_OF_MEMORY),
    "memory": (MemoryError(), reasons.KILLED),
    "memory, torch on the CPU": (
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), reasons.KILLED,
    ),
    "our bug": (ZeroDivisionError("rex.jpg"), reasons.INTERNAL_ERROR),
}  # fmt: skip


@pytest.mark.parametrize("what", ERRORS)
def test_error_of_a_library_has_a_reason_and_is_not_quoted(what: str, tmp_path: Path) -> None:
    error, reason = ERRORS[what]
    found, message = explain(error, tmp_path)
    assert found is reason
    assert "rex.jpg" not in message


def test_a_full_volume_is_told_with_what_is_there_what_is_needed_and_what_would_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("usage", (), {"total": 4 << 30, "used": 3 << 30, "free": 1 << 30})
    monkeypatch.setattr("dreambooth_job.explain.shutil.disk_usage", lambda _: usage)
    message = no_room(tmp_path, 5 << 30)
    assert "5.0 GiB more are needed and 1.0 GiB of 4.0 GiB are free" in message
    assert "runtime.scratch.sizeLimit to 16.0 GiB" in message


def test_sizes_are_readable() -> None:
    assert [size(n) for n in (3 << 20, 1 << 30, 45 << 28)] == ["3 MiB", "1.0 GiB", "11.2 GiB"]


def test_a_traceback_in_the_log_names_lines_and_no_words_of_the_errors() -> None:
    try:
        try:
            raise FileNotFoundError("rex.jpg")
        except FileNotFoundError as inner:
            raise ValueError("a photo of sks dog") from inner
    except ValueError as error:
        lines = where(error)
    assert "then ValueError" in lines
    assert all("test_explain.py:" in line for line in lines if not line.startswith("then"))
    assert "rex" not in str(lines)
    assert "sks" not in str(lines)
