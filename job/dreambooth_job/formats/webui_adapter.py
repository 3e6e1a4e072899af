"""The result as one adapter file with kohya's names: A1111, ComfyUI, InvokeAI and diffusers all read it.

The libraries' own exports load nowhere but in themselves with today's versions, and give alpha as the rank; see
docs/results.md. File format: kohya-ss/sd-scripts `networks/lora.py`.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from dreambooth_job.contracts import Family, Learned
from dreambooth_job.formats import about as words
from dreambooth_job.formats import safetensors_file

_KEY = re.compile(r"(denoiser|text\.\d+)\.(.+)\.(lora_down\.weight|lora_up\.weight|alpha)")


def write(learned: Learned, family: Family, to: Path, about: words.About) -> list[Path]:
    """`STEM.safetensors` (fp16) and `STEM.json` in the folder `to`; the preview picture is the caller's."""
    to.mkdir(parents=True, exist_ok=True)
    tensors = file_tensors(learned, family)
    path = to / f"{about.stem}.safetensors"
    safetensors_file.write(path, tensors, words.adapter_metadata(about, *_sizes(tensors)))
    return [words.write_sidecar(about, to), path]


def file_tensors(learned: Learned, family: Family, dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """What the file holds, by the names it has there."""
    named = {}
    for key, tensor in learned.tensors.items():
        part, path, kind = split_key(key)
        named[f"{family.adapter_name(part, path)}.{kind}"] = tensor.to(dtype)
    return named


def split_key(key: str) -> tuple[str, str, str]:
    """Part, module path and kind of tensor of a `Learned` key."""
    match = _KEY.fullmatch(key)
    assert match, key
    return match[1], match[2], match[3]


def _sizes(tensors: dict[str, Tensor]) -> tuple[int, float, tuple[int, float] | None]:
    """Rank and alpha of the linear adapters, and of the convolutions where there are any."""
    sizes = {}
    for name, tensor in tensors.items():
        if name.endswith(".lora_down.weight"):
            alpha = tensors[name.removesuffix("lora_down.weight") + "alpha"].item()
            sizes[tensor.ndim] = (tensor.shape[0], alpha)
    return *sizes[2], sizes.get(4)
