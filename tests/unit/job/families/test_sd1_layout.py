"""The original layout's names: against an outside list for the published sizes, and diffusers' converters for any."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

from dreambooth_job.families import sd1_layout, sd1_modules

# Names and shapes as listed by the package sd-mecha 1.1.8 (`sd1-ldm.yaml`), optional position numbers left out.
PUBLISHED = Path(__file__).parents[1] / "formats" / "sd15_tensors.txt"
PUBLISHED_CONFIGS = {
    "denoiser": {"cross_attention_dim": 768},
    "vae": {
        "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2,
        "latent_channels": 4,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    },
    "text.0": {
        "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12,
        "num_hidden_layers": 12,
    },
}  # fmt: skip


def published() -> dict[str, tuple[int, ...]]:
    rows = [line.split() for line in PUBLISHED.read_text().splitlines()]
    return {name: tuple(int(n) for n in shape.split("x")) for name, shape in rows}


def by_part(modules: dict[str, torch.nn.Module]) -> dict[str, torch.Tensor]:
    return {f"{part}.{name}": t for part, module in modules.items() for name, t in module.state_dict().items()}


def test_the_published_sizes_have_the_published_names_and_shapes():
    tensors = sd1_layout.original_layout(by_part(sd1_modules.empty_modules(PUBLISHED_CONFIGS)))
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == published()
    assert len(tensors) == 686 + 248 + 196


def test_configs_derived_from_the_published_shapes_build_the_published_modules():
    tensors = {name: torch.empty(shape, device="meta") for name, shape in published().items()}
    derived = sd1_modules.empty_modules(sd1_modules.derived(tensors, None))
    wanted = sd1_modules.empty_modules(PUBLISHED_CONFIGS)
    for part, module in wanted.items():
        assert {n: t.shape for n, t in module.state_dict().items()} == {
            n: t.shape for n, t in derived[part].state_dict().items()
        }
    assert derived["text.0"].config.num_attention_heads == 12
    assert derived["denoiser"].config.sample_size == 64


@pytest.mark.parametrize(("channels", "layers"), [((32, 32, 64), 1), ((32, 32, 64, 64), 2), ((32, 64), 3)])
def test_diffusers_own_converters_read_what_is_written_bit_for_bit(channels, layers):
    levels = len(channels)
    unet = UNet2DConditionModel(
        block_out_channels=channels, layers_per_block=layers, cross_attention_dim=32,
        down_block_types=("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=channels, layers_per_block=layers, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
    )  # fmt: skip
    tensors = by_part({"denoiser": unet, "vae": vae})
    original = sd1_layout.original_layout(tensors)
    read = {f"denoiser.{k}": v for k, v in convert_ldm_unet_checkpoint(dict(original), unet.config).items()}
    read |= {f"vae.{k}": v for k, v in convert_ldm_vae_checkpoint(dict(original), vae.config).items()}
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
    names = sd1_layout.original_names(tensors)
    assert all(torch.equal(sd1_layout.from_original(original[names[k]], k), t) for k, t in tensors.items())


def test_text_names_are_nested_whatever_the_library_calls_them():
    weight = torch.ones(1)
    nested = "cond_stage_model.transformer.text_model.final_layer_norm.weight"
    for name in ("text.0.final_layer_norm.weight", "text.0.text_model.final_layer_norm.weight"):
        assert list(sd1_layout.original_layout({name: weight})) == [nested]
