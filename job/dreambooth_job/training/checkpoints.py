"""A training state on disk and back: safetensors and JSON, so that reading one can run no code.

A folder holds `trainable.safetensors`, `optimizer.safetensors` and `state.json`; the caller gives it its manifest and
takes it to the bucket. What is restored equals what was saved bit for bit, and the loop needs nothing else.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dreambooth_job.errors import Diverged
from dreambooth_job.training.loop import TrainingState

FILES = ("trainable.safetensors", "optimizer.safetensors", "state.json")
_VERSION = 1


def save(folder: Path, state: TrainingState) -> None:
    """Writes the state into an empty folder. Raises Diverged rather than keep weights that are not finite."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous().cpu() for name, tensor in state.trainable.state().items()}
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise Diverged(
            f"the weights are no longer finite numbers at step {state.step}; lower training.learningRate or use "
            "training.precision: fp32"
        )
    save_file(tensors, folder / FILES[0])
    save_file(_optimizer_tensors(state), folder / FILES[1])
    record = {"version": _VERSION, "step": state.step, "scaler": state.scaler.state_dict()}
    (folder / FILES[2]).write_text(json.dumps(record))


def restore(folder: Path, state: TrainingState) -> None:
    """Brings a state that `begin` made for the same method and settings to where `save` left it."""
    record = json.loads((folder / FILES[2]).read_text())
    if record["version"] != _VERSION:
        raise ValueError(f"the checkpoint has version {record['version']}, {_VERSION} is read here")
    state.trainable.restore(load_file(folder / FILES[0]))
    per_parameter: dict[int, dict[str, Tensor]] = {}
    for name, tensor in load_file(folder / FILES[1]).items():
        index, key = name.split(".")
        per_parameter.setdefault(int(index), {})[key] = tensor
    groups = state.optimizer.state_dict()["param_groups"]
    state.optimizer.load_state_dict({"state": per_parameter, "param_groups": groups})
    state.scaler.load_state_dict(record["scaler"])
    state.step = record["step"]


def _optimizer_tensors(state: TrainingState) -> dict[str, Tensor]:
    """AdamW's moments and counts as `<number of the parameter>.<name>`."""
    by_parameter = state.optimizer.state_dict()["state"]
    return {f"{i}.{key}": value.cpu() for i, values in by_parameter.items() for key, value in values.items()}
