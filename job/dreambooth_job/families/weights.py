"""The only door through which a stranger's weight file enters: it is checked before a library opens it.

A safetensors file is data; its header is bounded here because its readers trust it. A pickle (`.ckpt`, `.bin`) can
carry code, so it is refused unless the user allows it, and even then torch's restricted unpickler builds tensors only.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dreambooth_job.errors import BaseModelUnreadable, PickleRefused

MAX_HEADER_BYTES = 16 * 2**20
MAX_TENSORS = 20_000
_PICKLES = (".ckpt", ".bin", ".pt", ".pth")
_LISTED = 5  # names given in a message; a wrong file has thousands


class _Inert:
    """Stands in for the few harmless classes that old training scripts pickled beside the weights; it does nothing."""

    def __init__(self, *args: object, **kwargs: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


# Seen in the Stable Diffusion 1 releases: a Lightning callback and its best score, a numpy scalar.
_TOLERATED = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
)


def read_weights(path: Path, *, allow_pickle: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name and the file's metadata. Raises BaseModelUnreadable or PickleRefused, naming file and cause."""
    if path.suffix in _PICKLES:
        return _read_pickle(path, allow_pickle), {}
    metadata = read_header(path).get("__metadata__", {})
    try:
        return load_file(path), metadata
    except (SafetensorError, OSError, ValueError) as error:
        raise BaseModelUnreadable(f"{path.name} cannot be read as safetensors: {error}; upload it again") from error


def read_header(path: Path) -> dict:
    """A safetensors file's header (github.com/huggingface/safetensors, "Format"), within bounds."""
    with path.open("rb") as file:
        size = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))[0]
        if not 2 <= size <= MAX_HEADER_BYTES:
            raise BaseModelUnreadable(
                f"{path.name} is not a safetensors file: its header claims {size} bytes, at most {MAX_HEADER_BYTES} "
                "are expected; upload it again"
            )
        text = file.read(size)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BaseModelUnreadable(f"{path.name} has a damaged safetensors header; upload it again") from error
    if not isinstance(header, dict) or len(header) > MAX_TENSORS:
        raise BaseModelUnreadable(f"{path.name} holds no table of at most {MAX_TENSORS} tensors; it is not a model")
    return header


def _read_pickle(path: Path, allowed: bool) -> dict[str, Tensor]:
    if not allowed:
        raise PickleRefused(
            f"{path.name} is a pickle, which can run code when it is opened; use a .safetensors file, or set "
            "baseModel.allowPickle: true to have it read by the restricted reader"
        )
    try:
        refused = set(torch.serialization.get_unsafe_globals_in_checkpoint(path)) - set(_TOLERATED)
    except Exception as error:  # not a zip archive, or opcodes that torch's scanner refuses with many error types
        raise PickleRefused(f"{path.name} is not a checkpoint that can be read without trusting it: {error}") from error
    if refused:
        raise PickleRefused(
            f"{path.name} asks for {', '.join(sorted(refused)[:_LISTED])}, which a model has no need of; "
            "it was not opened; use a .safetensors file from a source you trust"
        )
    try:
        with torch.serialization.safe_globals([(_Inert, name) for name in _TOLERATED]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise BaseModelUnreadable(f"{path.name} cannot be read: {error}; upload it again") from error
    content = content.get("state_dict", content) if isinstance(content, dict) else {}
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def fill(module: nn.Module, tensors: Mapping[str, Tensor], part: str, dtype: torch.dtype) -> nn.Module:
    """Gives a module built on the meta device its weights; every one must be there, of the right shape and finite.

    Buffers that no file stores (CLIP's position numbers) are the caller's business. Raises BaseModelUnreadable.
    """
    wanted = module.state_dict()
    missing, unexpected = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    misshapen = [name for name in wanted.keys() & tensors.keys() if wanted[name].shape != tensors[name].shape]
    for fault, names in (("lacks", missing), ("does not know", unexpected), ("has another shape for", misshapen)):
        if names:
            more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
            raise BaseModelUnreadable(
                f"the base model's {part} {fault} {', '.join(names[:_LISTED])}{more}; "
                "the file is incomplete or of another architecture"
            )
    for name, tensor in tensors.items():
        if not (tensor.is_floating_point() and torch.isfinite(tensor).all()):
            raise BaseModelUnreadable(f"the base model's {part} has values that are not finite numbers in {name}")
    # Copied out of the mapped file: there the tensors lie unaligned, which changes results in the last bit.
    module.load_state_dict({name: tensor.to(dtype, copy=True) for name, tensor in tensors.items()}, assign=True)
    module.requires_grad_(False).eval()
    assert not any(tensor.is_meta for tensor in module.parameters())
    return module
