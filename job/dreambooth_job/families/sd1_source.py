"""Where a Stable Diffusion 1 base comes from: a diffusers folder, or one file in the original layout.

Both readers end in the same `Base`. No library opens the source: configs are taken key by key from a list, weights
come through `weights.py`, and a base that is not SD1 is refused with words.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from dreambooth_job.base_files import FOLDERS, WEIGHT_NAMES
from dreambooth_job.errors import BaseModelUnreadable, BaseModelUnsupported
from dreambooth_job.families import clip_vocabulary, sd1_modules
from dreambooth_job.families.sd1_layout import (
    ORIGINAL_PREFIXES,
    TEXT_PREFIX,
    UNET_PREFIX,
    VAE_PREFIX,
    from_original,
    nested_text_path,
    original_names,
)
from dreambooth_job.families.weights import read_header, read_weights

SCHEDULER_CONFIG = {  # CompVis v1-inference.yaml, in diffusers' words
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "timestep_spacing": "leading",
    "rescale_betas_zero_snr": False,
    "trained_betas": None,
}
_OTHER_FAMILIES = {  # a tensor name that only this family has
    "conditioner.embedders.": "Stable Diffusion XL",
    "cond_stage_model.model.": "Stable Diffusion 2",
    "model.diffusion_model.joint_blocks.": "Stable Diffusion 3",
    "model.diffusion_model.double_blocks.": "FLUX",
    "double_blocks.": "FLUX",
    "lora_unet_": "a LoRA, which is no base",
}
# Names that diffusers gave the VAE's attention before 0.17; the published SD1.5 folder still has them.
_OLD_VAE_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
_NOT_SD1 = (".position_ids", ".text_projection.weight")  # what other programs leave in the text encoder
_VAE_ROOTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")  # a VAE's own file may also hold its loss
_MAX_CONFIG_BYTES = 2**20
PUBLISHED_RESOLUTION_PX = 512


@dataclass(frozen=True)
class Base:
    """What a source holds, by part, under diffusers names; text names with the `text_model.` prefix or without."""

    configs: sd1_modules.Configs
    tensors: Mapping[str, Mapping[str, Tensor]]
    tokenizer: Any
    scheduler_config: Mapping[str, Any]


def read(source: Path, *, allow_pickle: bool, config_source: Path | None, vae: Path | None) -> Base:
    """Reads a folder or a file. Raises BaseModelUnreadable, BaseModelUnsupported or PickleRefused."""
    base = _read_folder(source, allow_pickle) if source.is_dir() else _read_file(source, allow_pickle, config_source)
    if vae is None:
        return base
    tensors, _ = read_weights(_vae_file(vae), allow_pickle=allow_pickle)
    if any(name.startswith("encoder.down_blocks.") for name in tensors):
        return replace(base, tensors={**base.tensors, "vae": _modern_vae(tensors)})
    bare = {name.removeprefix(VAE_PREFIX): tensor for name, tensor in tensors.items()}
    prefixed = {VAE_PREFIX + name: tensor for name, tensor in bare.items() if name.startswith(_VAE_ROOTS)}
    return replace(base, tensors={**base.tensors, "vae": _to_diffusers(prefixed, base.configs)["vae"]})


def resolution_px(source: Path, config_source: Path | None) -> int:
    """What `Model.resolution_px` will be, read from the configs alone, before any weight."""
    folder = source if source.is_dir() else config_source
    if folder is None:
        metadata = read_header(source).get("__metadata__", {}) if source.suffix == ".safetensors" else {}
        said = metadata.get("modelspec.resolution", "").partition("x")[0]
        return int(said) if said.isdigit() else PUBLISHED_RESOLUTION_PX
    unet, vae = _json(folder / FOLDERS["denoiser"] / "config.json"), _json(folder / FOLDERS["vae"] / "config.json")
    return int(unet["sample_size"]) * 2 ** (len(vae["block_out_channels"]) - 1)


def _read_folder(folder: Path, allow_pickle: bool) -> Base:
    configs, tokenizer, scheduler_config = _read_configs(folder)
    tensors = {
        part: read_weights(_weights_file(folder / name), allow_pickle=allow_pickle)[0] for part, name in FOLDERS.items()
    }
    return Base(configs, {**tensors, "vae": _modern_vae(tensors["vae"])}, tokenizer, scheduler_config)


def _read_configs(folder: Path) -> tuple[sd1_modules.Configs, Any, Mapping[str, Any]]:
    kind = _json(folder / "model_index.json").get("_class_name")
    if kind != "StableDiffusionPipeline":
        raise BaseModelUnsupported(f"the base is a {kind}; a StableDiffusionPipeline (Stable Diffusion 1) is needed")
    configs = {p: sd1_modules.accepted(p, _json(folder / name / "config.json")) for p, name in FOLDERS.items()}
    if configs["text.0"].get("hidden_act", "quick_gelu") != "quick_gelu":
        raise BaseModelUnsupported("the base's text encoder is not CLIP ViT-L (quick_gelu): it is Stable Diffusion 2")
    scheduler_config = _json(folder / "scheduler" / "scheduler_config.json")
    scheduler_config = SCHEDULER_CONFIG | {k: v for k, v in scheduler_config.items() if k in SCHEDULER_CONFIG}
    return configs, clip_vocabulary.from_folder(folder / "tokenizer"), scheduler_config


def _read_file(path: Path, allow_pickle: bool, config_source: Path | None) -> Base:
    content, metadata = read_weights(path, allow_pickle=allow_pickle)
    for name, family in _OTHER_FAMILIES.items():
        if any(key.startswith(name) for key in content):
            raise BaseModelUnsupported(f"{path.name} is {family}; a Stable Diffusion 1 base is needed")
    content = {
        _normalised(name): tensor
        for name, tensor in content.items()
        if name.startswith(ORIGINAL_PREFIXES) and not name.endswith(_NOT_SD1)
    }
    if config_source:
        configs, tokenizer, scheduler_config = _read_configs(config_source)
    else:
        configs = _derived_configs(path, content, metadata)
        tokenizer, scheduler_config = _published_tokenizer(path, configs), SCHEDULER_CONFIG
    return Base(configs, _to_diffusers(content, configs), tokenizer, scheduler_config)


def _derived_configs(path: Path, content: Mapping[str, Tensor], metadata: Mapping[str, str]) -> sd1_modules.Configs:
    resolution = metadata.get("modelspec.resolution", "").partition("x")[0]
    try:
        return sd1_modules.derived(content, int(resolution) if resolution.isdigit() else None)
    except (KeyError, StopIteration, ValueError, IndexError) as error:
        raise BaseModelUnreadable(
            f"{path.name} does not hold a whole Stable Diffusion 1 model in the original layout (UNet, VAE and text "
            f"encoder): {error} is missing"
        ) from error


def _published_tokenizer(path: Path, configs: sd1_modules.Configs) -> Any:
    words = configs["text.0"]["vocab_size"]
    if words != clip_vocabulary.CLIP_VOCABULARY_SIZE:
        raise BaseModelUnsupported(
            f"{path.name} has a text encoder of {words} words, CLIP's has {clip_vocabulary.CLIP_VOCABULARY_SIZE}; "
            "point baseModel.configUri at a diffusers folder with this model's configs and tokenizer"
        )
    return clip_vocabulary.published()


def _to_diffusers(content: Mapping[str, Tensor], configs: sd1_modules.Configs) -> dict[str, dict[str, Tensor]]:
    """Original names to diffusers names, by part; a tensor that no module asks for keeps its name and is found out."""
    modules = sd1_modules.empty_modules(configs)
    keys = [f"{part}.{name}" for part, module in modules.items() for name in module.state_dict()]
    diffusers_names = {original: key for key, original in original_names(keys).items()}
    parts = {UNET_PREFIX: "denoiser", VAE_PREFIX: "vae", TEXT_PREFIX: "text.0"}
    tensors: dict[str, dict[str, Tensor]] = {part: {} for part in modules}
    for name, tensor in content.items():
        part = next(part for prefix, part in parts.items() if name.startswith(prefix))
        key = diffusers_names.get(name, f"{part}.{name}")
        tensors[part][key.removeprefix(f"{part}.")] = from_original(tensor, key)
    return tensors


def _normalised(name: str) -> str:
    """Some merges lost the `text_model.` level of the original layout."""
    return TEXT_PREFIX + nested_text_path(name.removeprefix(TEXT_PREFIX)) if name.startswith(TEXT_PREFIX) else name


def _modern_vae(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    modern = {}
    for name, tensor in tensors.items():
        for old, new in _OLD_VAE_ATTENTION.items():
            name = name.replace(old, new)
        modern[name] = from_original(tensor, f"vae.{name}")
    return modern


def _vae_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    return _weights_file(path / "vae" if (path / "vae").is_dir() else path)


def _weights_file(folder: Path) -> Path:
    for name in WEIGHT_NAMES:
        if (folder / name).is_file():
            return folder / name
    raise BaseModelUnreadable(
        f"the base model's folder has no weights in {folder.name}/; diffusion_pytorch_model.safetensors or "
        "model.safetensors is expected there"
    )


def _json(path: Path) -> dict[str, Any]:
    where = f"{path.parent.name}/{path.name}"
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise ValueError(f"larger than {_MAX_CONFIG_BYTES} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("not an object")
    except (OSError, ValueError, RecursionError) as error:
        raise BaseModelUnreadable(f"the base model's {where} cannot be read: {error}") from error
    return content
