"""The committed base keeps Stable Diffusion 1's structure, in the folder and in the single file."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import CLIPTokenizer

from toyworld.models import SCALING_FACTOR
from toyworld.tokenizer import new_tokenizer, world_words
from toyworld.train_base import SINGLE_FILE, original_tensors

BASE = Path(__file__).parents[3] / "toyworld" / "base"


def config(part: str) -> dict:
    return json.loads((BASE / part / "config.json").read_text())


def test_unet_follows_the_rules_a_single_file_reader_relies_on() -> None:
    unet = config("unet")
    assert (unet["attention_head_dim"], unet["norm_num_groups"], unet["use_linear_projection"]) == (8, 32, False)
    assert unet["down_block_types"] == ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"]
    assert unet["up_block_types"] == ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]
    assert all(width % 32 == 0 for width in unet["block_out_channels"])


def test_vae_and_text_encoder_follow_the_rules_too() -> None:
    vae, text = config("vae"), config("text_encoder")
    assert (vae["latent_channels"], vae["norm_num_groups"], vae["scaling_factor"]) == (4, 32, SCALING_FACTOR)
    assert (text["hidden_act"], text["max_position_embeddings"]) == ("quick_gelu", 77)
    assert text["hidden_size"] == text["num_attention_heads"] * 64 == config("unet")["cross_attention_dim"]


def test_noise_is_that_of_stable_diffusion_1() -> None:
    noise = json.loads((BASE / "scheduler" / "scheduler_config.json").read_text())
    assert (noise["beta_start"], noise["beta_end"], noise["beta_schedule"]) == (0.00085, 0.012, "scaled_linear")
    assert noise["prediction_type"] == "epsilon"


def test_weights_are_small_and_in_half_precision() -> None:
    files = [*BASE.rglob("*.safetensors"), BASE.with_name(SINGLE_FILE)]
    assert sum(file.stat().st_size for file in files) < 30_000_000
    for file in files:
        with safe_open(file, "pt") as content:
            assert {content.get_slice(key).get_dtype() for key in content.keys()} == {"F16"}  # noqa: SIM118


def test_stored_vocabulary_is_the_one_the_code_learns() -> None:
    stored = CLIPTokenizer.from_pretrained(BASE / "tokenizer", local_files_only=True)
    sentence = " ".join(world_words())
    assert stored(sentence).input_ids == new_tokenizer()(sentence).input_ids


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_single_file_holds_exactly_the_folders_weights() -> None:
    folder = StableDiffusionPipeline.from_pretrained(BASE, torch_dtype=torch.float16, local_files_only=True)
    single, expected = load_file(BASE.with_name(SINGLE_FILE)), original_tensors(folder)
    assert single.keys() == expected.keys()
    assert all(torch.equal(single[name], expected[name]) for name in single)
