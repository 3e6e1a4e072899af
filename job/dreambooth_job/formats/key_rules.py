"""Which names A1111 and ComfyUI find in a Stable Diffusion 1 file: their rules, written anew from the originals.

A reader that does not know a name ignores it without a word, so a file is right only when every tensor is taken. The
names are built here as the readers build theirs, from sizes (CompVis `ldm` modules), and not with the code that wrote
the file. Sources: CompVis/stable-diffusion `openaimodel.py` and `model.py`; A1111 `extensions-builtin/Lora/networks.py`
(`convert_diffusers_name_to_compvis`); ComfyUI `comfy/lora.py` (`model_lora_keys_unet`, `model_lora_keys_clip`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from dreambooth_job.contracts import Model

_TEXT_MODULES = (
    *(f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")),
    *("mlp.fc1", "mlp.fc2", "layer_norm1", "layer_norm2"),
)
_ADAPTER_TENSORS = ("lora_down.weight", "lora_up.weight", "alpha")
_A1111_RESNET = {
    "conv1": "in_layers_2",
    "conv2": "out_layers_3",
    "time_emb_proj": "emb_layers_1",
    "conv_shortcut": "skip_connection",
}


@dataclass(frozen=True)
class Sizes:
    """What a reader takes from shapes and its own config file."""

    channels: tuple[int, ...]
    blocks: int
    attention: tuple[bool, ...]  # per level, from the top
    vae_channels: tuple[int, ...]
    vae_blocks: int
    text_layers: int

    @classmethod
    def of(cls, model: Model) -> Sizes:
        unet, vae = model.denoiser.config, model.vae.config
        return cls(
            channels=tuple(unet.block_out_channels),
            blocks=unet.layers_per_block,
            attention=tuple("CrossAttn" in kind for kind in unet.down_block_types),
            vae_channels=tuple(vae.block_out_channels),
            vae_blocks=vae.layers_per_block,
            text_layers=model.text[0].encoder.config.num_hidden_layers,
        )


def checkpoint_faults(names: Iterable[str], sizes: Sizes) -> list[str]:
    """Names that a reader of checkpoints would ignore, and those it would miss."""
    there, wanted = set(names), set(checkpoint_names(sizes))
    return sorted(f"{name} is not read" for name in there - wanted) + sorted(
        f"{name} is missing" for name in wanted - there
    )


def adapter_faults(names: Iterable[str], sizes: Sizes) -> list[str]:
    """Tensors of an adapter file that A1111 or ComfyUI would ignore."""
    accepted = {"A1111": a1111_modules(sizes), "ComfyUI": comfyui_modules(sizes)}
    faults = []
    for name in names:
        module, _, tensor = name.partition(".")  # A1111 splits at the first dot
        known_as = {"A1111": a1111_name(module, sizes), "ComfyUI": module}
        if tensor not in _ADAPTER_TENSORS:
            faults.append(f"{name} is no tensor of an adapter")
        faults += [f"{name} is not read by {ui}" for ui, modules in accepted.items() if known_as[ui] not in modules]
    return faults


def checkpoint_names(sizes: Sizes) -> list[str]:
    """Every tensor of an original checkpoint: 686 + 248 + 196 for the published sizes."""
    unet = [f"model.diffusion_model.{name}" for name in _tensors(_unet_modules(sizes))]
    vae = [f"first_stage_model.{name}" for name in _tensors(_vae_modules(sizes))]
    text = [f"cond_stage_model.transformer.text_model.{name}" for name in _text_tensors(sizes.text_layers)]
    return [*unet, *vae, *text]


def a1111_modules(sizes: Sizes) -> set[str]:
    """A1111's `network_layer_mapping`: the loaded model's modules with dots as underscores."""
    unet = {f"diffusion_model_{_flat(module)}" for module, _ in _unet_modules(sizes)}
    return unet | {f"transformer_text_model_{_flat(module)}" for module in _text_layer_modules(sizes.text_layers)}


def a1111_name(module: str, sizes: Sizes) -> str:
    """A file's module name as A1111 looks it up; its own code has 3 for `per_level`, the published sizes'."""
    per_level = sizes.blocks + 1
    if m := re.fullmatch(r"lora_unet_down_blocks_(\d+)_(attentions|resnets)_(\d+)_(.+)", module):
        return f"diffusion_model_input_blocks_{1 + int(m[1]) * per_level + int(m[3])}_{_a1111_slot(m[2], m[4])}"
    if m := re.fullmatch(r"lora_unet_up_blocks_(\d+)_(attentions|resnets)_(\d+)_(.+)", module):
        return f"diffusion_model_output_blocks_{int(m[1]) * per_level + int(m[3])}_{_a1111_slot(m[2], m[4])}"
    if m := re.fullmatch(r"lora_unet_mid_block_attentions_0_(.+)", module):
        return f"diffusion_model_middle_block_1_{m[1]}"
    if m := re.fullmatch(r"lora_unet_mid_block_resnets_(\d+)_(.+)", module):
        return f"diffusion_model_middle_block_{int(m[1]) * 2}_{_A1111_RESNET.get(m[2], m[2])}"
    if m := re.fullmatch(r"lora_unet_down_blocks_(\d+)_downsamplers_0_conv", module):
        return f"diffusion_model_input_blocks_{(int(m[1]) + 1) * per_level}_0_op"
    if m := re.fullmatch(r"lora_unet_up_blocks_(\d+)_upsamplers_0_conv", module):
        block = int(m[1]) * per_level + sizes.blocks
        return f"diffusion_model_output_blocks_{block}_{2 if int(m[1]) > 0 else 1}_conv"
    if m := re.fullmatch(r"lora_te_text_model_(.+)", module):
        return f"transformer_text_model_{m[1]}"
    return module


def comfyui_modules(sizes: Sizes) -> set[str]:
    """Module names that ComfyUI patches: its diffusers spelling of the UNet's weights, and CLIP's layers."""
    unet = {f"lora_unet_{_flat(module)}" for module in _diffusers_unet_modules(sizes)}
    modules = [m for m in _text_layer_modules(sizes.text_layers) if "layer_norm" not in m]
    return unet | {f"lora_te_text_model_{_flat(module)}" for module in modules}


def _a1111_slot(kind: str, suffix: str) -> str:
    return f"1_{suffix}" if kind == "attentions" else f"0_{_A1111_RESNET.get(suffix, suffix)}"


def _flat(module: str) -> str:
    return module.replace(".", "_")


def _tensors(modules: Iterable[tuple[str, bool]]) -> Iterator[str]:
    for module, has_bias in modules:
        yield f"{module}.weight"
        if has_bias:
            yield f"{module}.bias"


def _text_layer_modules(layers: int) -> list[str]:
    return [f"encoder.layers.{layer}.{module}" for layer in range(layers) for module in _TEXT_MODULES]


def _text_tensors(layers: int) -> Iterator[str]:
    yield from ("embeddings.token_embedding.weight", "embeddings.position_embedding.weight")
    yield from _tensors((module, True) for module in [*_text_layer_modules(layers), "final_layer_norm"])


def _residual(module: str, grows: bool) -> list[tuple[str, bool]]:
    inner = ["in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3"]
    return [(f"{module}.{name}", True) for name in [*inner, *(["skip_connection"] if grows else [])]]


def _transformer(module: str) -> list[tuple[str, bool]]:
    return [(f"{module}.{name}", has_bias) for name, has_bias in _TRANSFORMER]


def _attention(name: str) -> list[tuple[str, bool]]:
    return [(f"{name}.to_{letter}", False) for letter in "qkv"] + [(f"{name}.to_out.0", True)]


_TRANSFORMER = [
    ("norm", True),
    ("proj_in", True),
    *[(f"transformer_blocks.0.{name}", has_bias) for name, has_bias in [*_attention("attn1"), *_attention("attn2")]],
    *[(f"transformer_blocks.0.{name}", True) for name in ("ff.net.0.proj", "ff.net.2", "norm1", "norm2", "norm3")],
    ("proj_out", True),
]


def _unet_modules(sizes: Sizes) -> list[tuple[str, bool]]:
    """`openaimodel.UNetModel.__init__`: input blocks down, the middle, output blocks up; with or without bias."""
    channels, levels = sizes.channels, len(sizes.channels)
    modules = [("time_embed.0", True), ("time_embed.2", True), ("input_blocks.0.0", True)]
    number, width, skips = 0, channels[0], [channels[0]]
    for level in range(levels):
        for _ in range(sizes.blocks):
            number += 1
            modules += _residual(f"input_blocks.{number}.0", width != channels[level])
            modules += _transformer(f"input_blocks.{number}.1") if sizes.attention[level] else []
            width = channels[level]
            skips.append(width)
        if level < levels - 1:
            number += 1
            modules.append((f"input_blocks.{number}.0.op", True))
            skips.append(width)
    modules += _residual("middle_block.0", False) + _transformer("middle_block.1") + _residual("middle_block.2", False)
    number = -1
    for level in reversed(range(levels)):
        for block in range(sizes.blocks + 1):
            number += 1
            modules += _residual(f"output_blocks.{number}.0", width + skips.pop() != channels[level])
            modules += _transformer(f"output_blocks.{number}.1") if sizes.attention[level] else []
            width = channels[level]
            if level and block == sizes.blocks:
                modules.append((f"output_blocks.{number}.{2 if sizes.attention[level] else 1}.conv", True))
    return [*modules, ("out.0", True), ("out.2", True)]


def _vae_modules(sizes: Sizes) -> list[tuple[str, bool]]:
    """`model.Encoder` and `model.Decoder`: all with bias."""
    channels, levels = sizes.vae_channels, len(sizes.vae_channels)
    names = ["encoder.conv_in", "decoder.conv_in"]
    width = channels[0]
    for level in range(levels):
        for block in range(sizes.vae_blocks):
            names += _vae_residual(f"encoder.down.{level}.block.{block}", width != channels[level])
            width = channels[level]
        names += [f"encoder.down.{level}.downsample.conv"] if level < levels - 1 else []
    for level in reversed(range(levels)):
        for block in range(sizes.vae_blocks + 1):
            names += _vae_residual(f"decoder.up.{level}.block.{block}", width != channels[level])
            width = channels[level]
        names += [f"decoder.up.{level}.upsample.conv"] if level else []
    for side in ("encoder", "decoder"):
        names += _vae_residual(f"{side}.mid.block_1", False) + _vae_residual(f"{side}.mid.block_2", False)
        names += [f"{side}.mid.attn_1.{name}" for name in ("norm", "q", "k", "v", "proj_out")]
        names += [f"{side}.norm_out", f"{side}.conv_out"]
    return [(name, True) for name in [*names, "quant_conv", "post_quant_conv"]]


def _vae_residual(module: str, grows: bool) -> list[str]:
    return [f"{module}.{n}" for n in ("norm1", "conv1", "norm2", "conv2", *(["nin_shortcut"] if grows else []))]


def _diffusers_unet_modules(sizes: Sizes) -> Iterator[str]:
    """The weights of attention and residual blocks as ComfyUI's `unet_to_diffusers` spells them."""
    levels = len(sizes.channels)
    places = [("mid_block", 2, True, None)]
    for i in range(levels):
        places.append(
            (f"down_blocks.{i}", sizes.blocks, sizes.attention[i], "downsamplers" if i < levels - 1 else None)
        )
        up = sizes.attention[levels - 1 - i]
        places.append((f"up_blocks.{i}", sizes.blocks + 1, up, "upsamplers" if i < levels - 1 else None))
    for place, blocks, attentive, sampler in places:
        for block in range(blocks):
            yield from (
                f"{place}.resnets.{block}.{name}" for name in ("conv1", "conv2", "time_emb_proj", "conv_shortcut")
            )
        for block in range(1 if place == "mid_block" else blocks):
            if attentive:
                yield from (f"{place}.attentions.{block}.{name}" for name, _ in _TRANSFORMER)
        if sampler:
            yield f"{place}.{sampler}.0.conv"
