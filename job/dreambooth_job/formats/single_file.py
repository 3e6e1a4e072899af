"""The result as one checkpoint in the family's original layout, for A1111 and ComfyUI."""

from __future__ import annotations

from pathlib import Path

import torch

from dreambooth_job.contracts import Family, Model
from dreambooth_job.formats import about as words
from dreambooth_job.formats import safetensors_file


def write(model: Model, family: Family, to: Path, about: words.About, dtype: torch.dtype = torch.float16) -> list[Path]:
    """`STEM.safetensors` and `STEM.json` in the folder `to`; the preview picture is the caller's."""
    to.mkdir(parents=True, exist_ok=True)
    tensors = {f"{p}.{n}": t.to(dtype) for p, module in model.modules().items() for n, t in module.state_dict().items()}
    path = to / f"{about.stem}.safetensors"
    safetensors_file.write(path, family.original_layout(tensors), words.checkpoint_metadata(about))
    return [words.write_sidecar(about, to), path]
