"""Writes a safetensors file with its own hash inside; the same tensors and words give the same bytes.

The library writes metadata in random order and knows no hashes. Format: github.com/huggingface/safetensors, "Format":
8 bytes of header length, a JSON header padded with spaces, the tensors' bytes without gaps.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

MAX_HEADER_BYTES = 2**20  # ComfyUI's metadata route reads no longer header
_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """`metadata` gains `sshs_model_hash` and `modelspec.hash_sha256`: SHA-256 of all bytes after the header."""
    tensors = dict(sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])))  # keeps alignment
    digest = hashlib.sha256()
    for data in _data(tensors):
        digest.update(data)
    hashes = {"sshs_model_hash": digest.hexdigest(), "modelspec.hash_sha256": f"0x{digest.hexdigest()}"}
    with path.open("wb") as file:
        file.write(_header(tensors, {**metadata, **hashes}))
        for data in _data(tensors):
            file.write(data)


def data_hash(path: Path) -> str:
    """SHA-256 of all bytes after the header, as web UIs compute it."""
    with path.open("rb") as file:
        file.seek(8 + struct.unpack("<Q", file.read(8))[0])
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a file of our own, and its size in bytes."""
    with path.open("rb") as file:
        size_bytes = struct.unpack("<Q", file.read(8))[0]
        return json.loads(file.read(size_bytes)), size_bytes


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        entries[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _data(tensors: Mapping[str, Tensor]) -> Iterator[bytes]:
    for tensor in tensors.values():
        yield tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
