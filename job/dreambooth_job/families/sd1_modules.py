"""Stable Diffusion 1's three networks: the configurations that are allowed, and empty modules built from them.

A diffusers folder brings configurations; for a single file they are derived from tensor shapes. What shapes cannot
say is what every SD1 has: 8 attention heads in the UNet, CLIP heads of 64 dimensions, 32 groups, scaling 0.18215.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from dreambooth_job.errors import BaseModelUnsupported
from dreambooth_job.families.sd1_layout import TEXT_PREFIX, UNET_PREFIX, VAE_PREFIX

Configs = Mapping[str, dict[str, Any]]  # by part: "denoiser", "vae", "text.0"

CLIP_HEAD_DIM = 64
DEFAULT_SAMPLE_SIZE = 64  # latents; 512 px
# The sizes that a diffusers config may choose; each other key has to say what SD1 says, which is diffusers' default.
_CLASSES = {"denoiser": UNet2DConditionModel, "vae": AutoencoderKL}
_FREE_KEYS = {
    "denoiser": {
        "sample_size", "block_out_channels", "layers_per_block", "cross_attention_dim", "norm_num_groups",
        "down_block_types", "up_block_types",
    },
    "vae": {
        "sample_size", "block_out_channels", "layers_per_block", "latent_channels", "norm_num_groups",
        "down_block_types", "up_block_types", "scaling_factor", "force_upcast",
    },
}  # fmt: skip
_TEXT_KEYS = {
    "hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size",
    "max_position_embeddings", "hidden_act", "layer_norm_eps", "bos_token_id", "eos_token_id", "pad_token_id",
}  # fmt: skip
_KINDS_WITH_OTHER_INPUTS = {9: "an inpainting", 8: "an instruct-pix2pix", 5: "a depth", 7: "an upscaling"}
# A stranger's config must not make us build networks all day.
_BOUNDS = {"block_out_channels": 4096, "layers_per_block": 16, "num_hidden_layers": 64}


def accepted(part: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a folder's config that are used. Raises BaseModelUnsupported for one that SD1 does not have."""
    if part == "text.0":
        return _bounded(part, {key: config[key] for key in _TEXT_KEYS & config.keys()})
    if part == "denoiser" and (channels := config.get("in_channels", 4)) != 4:
        raise BaseModelUnsupported(_other_inputs(channels))
    defaults = {n: p.default for n, p in inspect.signature(_CLASSES[part].__init__).parameters.items() if n != "self"}
    for key in defaults.keys() & config.keys() - _FREE_KEYS[part]:
        if (config[key] or None) != (defaults[key] or None) and config[key] != _as_list(defaults[key]):
            raise BaseModelUnsupported(
                f"the base model's {part} config has {key} = {config[key]!r}; Stable Diffusion 1 has {defaults[key]!r}"
            )
    return _bounded(part, {key: config[key] for key in _FREE_KEYS[part] & config.keys()})


def derived(tensors: Mapping[str, Tensor], resolution_px: int | None) -> Configs:
    """The configurations of an original checkpoint, from its tensors' names and shapes."""
    unet = {k.removeprefix(UNET_PREFIX): v.shape for k, v in tensors.items() if k.startswith(UNET_PREFIX)}
    vae = {k.removeprefix(VAE_PREFIX): v.shape for k, v in tensors.items() if k.startswith(VAE_PREFIX)}
    text = {k.removeprefix(TEXT_PREFIX): v.shape for k, v in tensors.items() if k.startswith(TEXT_PREFIX)}
    if (channels := unet["input_blocks.0.0.weight"][1]) != 4:
        raise BaseModelUnsupported(_other_inputs(channels))
    configs = {"denoiser": _unet_config(unet), "vae": _vae_config(vae), "text.0": _text_config(text)}
    factor = 2 ** (len(configs["vae"]["block_out_channels"]) - 1)
    configs["denoiser"]["sample_size"] = resolution_px // factor if resolution_px else DEFAULT_SAMPLE_SIZE
    configs["vae"]["sample_size"] = configs["denoiser"]["sample_size"] * factor
    return configs


def empty_modules(configs: Configs) -> dict[str, nn.Module]:
    """The three networks on the meta device: names and shapes, no memory."""
    try:
        with torch.device("meta"):
            modules = {part: kind.from_config({**configs[part]}) for part, kind in _CLASSES.items()}
            modules["text.0"] = CLIPTextModel(CLIPTextConfig(**configs["text.0"]))
    except Exception as error:  # whatever a library says to a config that describes no network
        raise BaseModelUnsupported(f"the base model's configs describe no Stable Diffusion 1: {error}") from error
    return modules


def _unet_config(shapes: Mapping[str, torch.Size]) -> dict[str, Any]:
    downs = sorted(int(m[1]) for k in shapes if (m := re.fullmatch(r"input_blocks\.(\d+)\.0\.op\.weight", k)))
    blocks = 1 + max(int(m[1]) for k in shapes if (m := re.match(r"input_blocks\.(\d+)\.", k)))
    per_level = (downs[0] if downs else blocks) - 1
    firsts = range(1, blocks, per_level + 1)
    attention = [f"input_blocks.{first}.1.norm.weight" in shapes for first in firsts]
    context = next(shape[1] for k, shape in shapes.items() if k.endswith("attn2.to_k.weight"))
    return {
        "block_out_channels": [shapes[f"input_blocks.{first}.0.out_layers.3.weight"][0] for first in firsts],
        "layers_per_block": per_level,
        "cross_attention_dim": context,
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attention],
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)],
    }


def _vae_config(shapes: Mapping[str, torch.Size]) -> dict[str, Any]:
    blocks = [m for k in shapes if (m := re.fullmatch(r"encoder\.down\.(\d+)\.block\.(\d+)\.conv2\.weight", k))]
    levels = len({match[1] for match in blocks})
    return {
        "block_out_channels": [shapes[f"encoder.down.{i}.block.0.conv2.weight"][0] for i in range(levels)],
        "layers_per_block": len(blocks) // levels,
        "latent_channels": shapes["post_quant_conv.weight"][0],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "scaling_factor": 0.18215,
    }


def _text_config(shapes: Mapping[str, torch.Size]) -> dict[str, Any]:
    words, width = shapes["text_model.embeddings.token_embedding.weight"]
    return {
        "vocab_size": words,
        "hidden_size": width,
        "max_position_embeddings": shapes["text_model.embeddings.position_embedding.weight"][0],
        "intermediate_size": shapes["text_model.encoder.layers.0.mlp.fc1.weight"][0],
        "num_attention_heads": max(1, width // CLIP_HEAD_DIM),
        "num_hidden_layers": sum(k.endswith(".mlp.fc1.weight") for k in shapes),
        "hidden_act": "quick_gelu",
        "bos_token_id": words - 2,  # CLIP's two last words are start and end of text
        "eos_token_id": words - 1,
        "pad_token_id": words - 1,
    }


def _other_inputs(channels: int) -> str:
    kind = _KINDS_WITH_OTHER_INPUTS.get(channels, "another kind of")
    return f"the base is {kind} model: its UNet reads {channels} channels; use a text-to-image base, which reads 4"


def _bounded(part: str, config: dict[str, Any]) -> dict[str, Any]:
    for key, bound in _BOUNDS.items():
        values = config.get(key, [])
        if any(not isinstance(v, int) or v > bound for v in (values if isinstance(values, list) else [values])):
            raise BaseModelUnsupported(f"the base model's {part} config has {key} = {values!r}; {bound} is the most")
    return config


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
