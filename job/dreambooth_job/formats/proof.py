"""Before anything is published: what was written is read back by others' readers and compared with what was trained.

A model that loads with half its weights looks like a bad training, so a difference ends the run as ResultUnusable.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import diffusers
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

from dreambooth_job.contracts import Family, Learned, Model
from dreambooth_job.errors import ResultUnusable
from dreambooth_job.formats import key_rules, safetensors_file, webui_adapter

_LISTED = 3
_ADAPTER = "proof"


def prove_folder(folder: Path, model: Model, family: Family, dtype: torch.dtype = torch.float16) -> None:
    """diffusers reads the folder and every tensor is the trained one, rounded to `dtype`. Raises ResultUnusable."""
    with _as_result_unusable(folder.name):
        read = type(family.pipeline(model)).from_pretrained(folder, local_files_only=True, dtype=dtype)
    _compare_pipelines(folder.name, read, model, family, dtype)


def prove_single_file(
    path: Path, folder: Path, model: Model, family: Family, dtype: torch.dtype = torch.float16
) -> None:
    """diffusers reads the file with the folder's configs, and A1111 and ComfyUI find every tensor of it."""
    names = _prove_header(path).keys()
    _refuse(path, key_rules.checkpoint_faults(names, key_rules.Sizes.of(model)))
    with _as_result_unusable(path.name):
        kind = type(family.pipeline(model))
        read = kind.from_single_file(str(path), config=str(folder), local_files_only=True, dtype=dtype)
    _compare_pipelines(path.name, read, model, family, dtype)


def prove_adapter(path: Path, learned: Learned, model: Model, family: Family) -> None:
    """The file holds what was learned, A1111 and ComfyUI take every tensor, and diffusers loads it at its strength.

    diffusers puts the adapters onto the live modules and takes them off again.
    """
    names = _prove_header(path).keys()
    _refuse(path, key_rules.adapter_faults(names, key_rules.Sizes.of(model)))
    expected = webui_adapter.file_tensors(learned, family)
    _compare(path.name, load_file(path), expected)
    pipeline = family.pipeline(model)
    with _as_result_unusable(path.name):
        pipeline.load_lora_weights(path.parent, weight_name=path.name, adapter_name=_ADAPTER, local_files_only=True)
    try:
        _compare(path.name, _loaded_adapters(model, learned, family), expected)
    finally:
        pipeline.unload_lora_weights()


def _loaded_adapters(model: Model, learned: Learned, family: Family) -> dict[str, Tensor]:
    """What diffusers made of the file, under the file's names."""
    modules, found = model.modules(), {}
    for key in learned.tensors:
        part, path, kind = webui_adapter.split_key(key)
        layer = modules[part].get_submodule(path)
        if _ADAPTER in getattr(layer, "scaling", {}):
            down, up = layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight
            alpha = torch.tensor(layer.scaling[_ADAPTER] * down.shape[0])
            value = {"lora_down.weight": down, "lora_up.weight": up, "alpha": alpha}[kind]
            found[f"{family.adapter_name(part, path)}.{kind}"] = value.to(torch.float16)
    return found


def _compare_pipelines(name: str, read: object, model: Model, family: Family, dtype: torch.dtype) -> None:
    """Part by part: the components of the pipeline that was read against the live ones."""
    components = {id(module): getattr(read, key) for key, module in family.pipeline(model).components.items()}
    for part, module in model.modules().items():
        trained = {key: tensor.to(dtype) for key, tensor in module.state_dict().items()}
        other: nn.Module = components[id(module)]
        _compare(f"{name} ({part})", other.state_dict(), trained)


def _compare(name: str, read: Mapping[str, Tensor], trained: Mapping[str, Tensor]) -> None:
    if read.keys() != trained.keys():
        odd = sorted(read.keys() ^ trained.keys())
        raise ResultUnusable(f"{name}, read back, has other tensors than the model: {', '.join(odd[:_LISTED])}")
    for key, tensor in trained.items():
        if not torch.isfinite(tensor).all():
            raise ResultUnusable(f"{name} cannot hold {key} in half precision: its values are too large")
        if not torch.equal(read[key].cpu(), tensor.cpu()):
            raise ResultUnusable(f"{name}, read back, differs from the trained model in {key}")


def _prove_header(path: Path) -> dict[str, object]:
    """The file's tensors by name, when its header is one that every reader takes."""
    header, size_bytes = safetensors_file.read_header(path)
    metadata = header.pop("__metadata__", {})
    faults = []
    if size_bytes > safetensors_file.MAX_HEADER_BYTES:
        faults.append(f"the header has {size_bytes} bytes, more than {safetensors_file.MAX_HEADER_BYTES}")
    if not all(isinstance(value, str) for value in metadata.values()):
        faults.append("a metadata value is no string")
    if metadata.get("sshs_model_hash") != safetensors_file.data_hash(path):
        faults.append("the hash in the header is not that of the tensors")
    _refuse(path, faults)
    return header


def _refuse(path: Path, faults: list[str]) -> None:
    if faults:
        raise ResultUnusable(f"{path.name}: {'; '.join(faults[:_LISTED])}; {len(faults)} faults in all")


@contextmanager
def _as_result_unusable(name: str) -> Iterator[None]:
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    except Exception as error:  # whatever a reader says to a file it cannot read
        raise ResultUnusable(f"{name} cannot be read back: {error}") from error
