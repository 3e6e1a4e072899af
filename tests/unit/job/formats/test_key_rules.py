"""The readers' name rules at the published sizes: every name of an outside list is known, the known traps are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreambooth_job.formats import key_rules

SIZES = key_rules.Sizes(
    channels=(320, 640, 1280, 1280), blocks=2, attention=(True, True, True, False),
    vae_channels=(128, 256, 512, 512), vae_blocks=2, text_layers=12,
)  # fmt: skip
PUBLISHED = [line.split()[0] for line in (Path(__file__).parent / "sd15_tensors.txt").read_text().splitlines()]


def test_the_rules_build_exactly_the_published_names():
    assert sorted(key_rules.checkpoint_names(SIZES)) == sorted(PUBLISHED)
    assert key_rules.checkpoint_faults(PUBLISHED, SIZES) == []


def test_a_checkpoint_whose_text_lost_a_level_is_found_out():
    wrong = [name.replace("transformer.text_model.", "transformer.") for name in PUBLISHED]
    assert len(key_rules.checkpoint_faults(wrong, SIZES)) == 2 * 196


GOOD = [
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight",
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_out_0.alpha",
    "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_ff_net_0_proj.lora_up.weight",
    "lora_unet_up_blocks_2_upsamplers_0_conv.alpha",
    "lora_unet_down_blocks_2_downsamplers_0_conv.alpha",
    "lora_unet_up_blocks_0_resnets_1_conv_shortcut.alpha",
    "lora_te_text_model_encoder_layers_11_mlp_fc2.alpha",
]
# What diffusers' own exports look like today, and slips of one letter.
BAD = [
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight",
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q_lora.down.weight",
    "lora_te_encoder_layers_11_mlp_fc2.alpha",
    "lora_te1_text_model_encoder_layers_11_mlp_fc2.alpha",
    "lora_te_text_model_encoder_layers_12_mlp_fc2.alpha",
    "lora_unet_down_blocks_3_attentions_0_transformer_blocks_0_attn1_to_q.alpha",
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_out.alpha",
    "lora_unet_up_blocks_3_upsamplers_0_conv.alpha",
]


@pytest.mark.parametrize("name", GOOD)
def test_a_right_adapter_name_is_taken_by_both(name):
    assert key_rules.adapter_faults([name], SIZES) == []


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_adapter_name_is_taken_by_neither(name):
    faults = " ".join(key_rules.adapter_faults([name], SIZES))
    assert "not read by A1111" in faults
    assert "not read by ComfyUI" in faults
