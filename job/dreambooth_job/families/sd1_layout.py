"""Stable Diffusion 1's original tensor names, derived from structure so that any number of levels works.

A checkpoint of one file (CompVis `ldm`, `configs/stable-diffusion/v1-inference.yaml`) and a diffusers folder hold the
same tensors under other names. Only one direction is written down, diffusers to original: a reader builds the empty
modules first, asks for the original name of each tensor they want, and looks it up in the file.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from torch import Tensor

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
TEXT_PREFIX = "cond_stage_model.transformer."
ORIGINAL_PREFIXES = (UNET_PREFIX, VAE_PREFIX, TEXT_PREFIX)

_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_UNET_MODULES = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET_MODULES = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_MODULES = {
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.attentions.0": "mid.attn_1",
    "mid_block.resnets.1": "mid.block_2",
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
_VAE_ATTENTION = re.compile(r"mid_block\.attentions\.0\.(to_q|to_k|to_v|to_out\.0)\.weight$")


def original_layout(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames `denoiser.*`, `vae.*` and `text.0.*` (diffusers paths) as one original checkpoint holds them.

    The VAE's attention is linear in diffusers and a 1x1 convolution there, so its weights gain two axes.
    """
    names = original_names(tensors)
    return {names[key]: _as_conv(tensor) if _is_vae_attention(key) else tensor for key, tensor in tensors.items()}


def original_names(keys: Collection[str]) -> dict[str, str]:
    """Each key `<part>.<diffusers path>` with the name the same tensor has in an original checkpoint."""
    unet = _below("denoiser.", keys)
    vae = _below("vae.", keys)
    text = _below("text.0.", keys)
    unet_names = {f"denoiser.{k}": UNET_PREFIX + v for k, v in _unet_names(unet).items()}
    vae_names = {f"vae.{k}": VAE_PREFIX + v for k, v in _vae_names(vae).items()}
    return unet_names | vae_names | {f"text.0.{k}": TEXT_PREFIX + nested_text_path(k) for k in text}


def nested_text_path(path: str) -> str:
    """A text encoder's path with its `text_model.` prefix: transformers 5.6 dropped it in memory, no file may."""
    return path if path.startswith("text_model.") else f"text_model.{path}"


def flat_text_path(path: str) -> str:
    return path.removeprefix("text_model.")


def from_original(original: Tensor, key: str) -> Tensor:
    """The tensor as diffusers wants it under `key`: the inverse of what `original_layout` does to shapes."""
    return original.flatten(1) if _is_vae_attention(key) and original.ndim > 2 else original


def _below(prefix: str, keys: Iterable[str]) -> list[str]:
    return [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]


def _is_vae_attention(key: str) -> bool:
    return key.startswith("vae.") and _VAE_ATTENTION.search(key) is not None


def _as_conv(weight: Tensor) -> Tensor:
    return weight[:, :, None, None].contiguous()


def _resnets_per_level(keys: Iterable[str], prefix: str) -> int:
    """How many residual blocks each down level has; the up levels have one more."""
    found = re.compile(re.escape(prefix) + r"down_blocks\.0\.resnets\.(\d+)\.")
    return len({match[1] for key in keys if (match := found.match(key))})


def _unet_names(keys: Collection[str]) -> dict[str, str]:
    layers = _resnets_per_level(keys, "")
    attentive = {key.split(".")[1] for key in keys if key.startswith("up_blocks.") and ".attentions." in key}
    return {key: _unet_name(key, layers, attentive) for key in keys}


def _unet_name(key: str, layers: int, attentive_up_levels: set[str]) -> str:
    block = _BLOCK.fullmatch(key)
    if block is None:
        module = next(m for m in _UNET_MODULES if key.startswith(f"{m}."))
        rest = key.removeprefix(f"{module}.")
        return f"{_UNET_MODULES[module]}.{_resnet_path(rest) if 'resnets' in module else rest}"
    side, level, kind, index, rest = block.groups()
    first = int(level) * (layers + 1)
    if kind == "downsamplers":
        return f"input_blocks.{first + layers + 1}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":  # it follows the level's last block, in the next free slot
        return f"output_blocks.{first + layers}.{2 if level in attentive_up_levels else 1}.{rest}"
    number = first + int(index) + (1 if side == "down" else 0)  # input_blocks.0 is conv_in
    slot = f"{'input' if side == 'down' else 'output'}_blocks.{number}"
    return f"{slot}.0.{_resnet_path(rest)}" if kind == "resnets" else f"{slot}.1.{rest}"


def _resnet_path(path: str) -> str:
    module, parameter = path.rsplit(".", 1)
    return f"{_RESNET_MODULES[module]}.{parameter}"


def _vae_names(keys: Collection[str]) -> dict[str, str]:
    levels = len({key.split(".")[2] for key in keys if key.startswith("encoder.down_blocks.")})
    return {key: _vae_name(key, levels) for key in keys}


def _vae_name(key: str, levels: int) -> str:
    side, _, path = key.partition(".")
    if block := _BLOCK.fullmatch(path):
        direction, level, kind, index, rest = block.groups()
        number = int(level) if direction == "down" else levels - 1 - int(level)  # the original counts up from the top
        name = {"resnets": f"block.{index}", "downsamplers": "downsample", "upsamplers": "upsample"}[kind]
        path = f"{direction}.{number}.{name}.{rest}"
    for module, original in _VAE_MODULES.items():
        path = re.sub(rf"(^|\.){re.escape(module)}\.", rf"\g<1>{original}.", path)
    return f"{side}.{path}"
