"""The result as a diffusers folder, written without the libraries' own savers.

Their text encoder's names depend on the installed transformers and on where the weights came from; a folder of ours
always has the names that every reader knows (the family's `folder_path`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dreambooth_job.contracts import Family, Model
from dreambooth_job.formats import safetensors_file


def write(model: Model, family: Family, to: Path, dtype: torch.dtype = torch.float16) -> list[Path]:
    """Fills the folder `to` and returns its files."""
    pipeline = family.pipeline(model)
    parts = {id(module): part for part, module in model.modules().items()}
    to.mkdir(parents=True, exist_ok=True)
    pipeline.save_config(to)
    for name, component in pipeline.components.items():
        if isinstance(component, nn.Module):
            _write_module(component, parts[id(component)], family, to / name, dtype)
        elif name.startswith("tokenizer"):
            _write_tokenizer(component, to / name)
        elif component is not None:
            component.save_config(to / name)
    return sorted(path for path in to.rglob("*") if path.is_file())


def _write_module(module: nn.Module, part: str, family: Family, folder: Path, dtype: torch.dtype) -> None:
    folder.mkdir(exist_ok=True)
    is_diffusers = hasattr(module, "save_config")
    if is_diffusers:
        module.save_config(folder)
    else:
        (folder / "config.json").write_text(_transformers_config(module))
    tensors = {family.folder_path(part, name): tensor.to(dtype) for name, tensor in module.state_dict().items()}
    stem = "diffusion_pytorch_model" if is_diffusers else "model"
    safetensors_file.write(folder / f"{stem}.safetensors", tensors, {"format": "pt"})


def _transformers_config(module: Any) -> str:
    config = {**module.config.to_dict(), "architectures": [type(module).__name__]}
    config.pop("dtype", None)
    return json.dumps(config, indent=2, sort_keys=True)


def _write_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Today's transformers writes tokenizer.json only; yesterday's read vocab.json and merges.txt."""
    tokenizer.save_pretrained(folder)
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
