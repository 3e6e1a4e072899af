"""Loading a Stable Diffusion 1 base from every form it comes in, and refusing what is none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from dreambooth_job.base_files import select_files
from dreambooth_job.errors import BaseModelUnreadable, BaseModelUnsupported, PickleRefused
from dreambooth_job.families import clip_vocabulary, objectives
from dreambooth_job.families.sd1 import SD1
from dreambooth_job.families.sd1_source import SCHEDULER_CONFIG
from tests.tiny import SIDE_PX, tiny_vae

FAMILY = SD1()


@pytest.fixture(scope="module")
def model(tiny_base):
    return FAMILY.load(tiny_base)


@pytest.fixture(scope="module")
def original(model):
    """The tiny base as one file would hold it."""
    tensors = {f"{p}.{n}": t for p, m in model.modules().items() for n, t in m.state_dict().items()}
    return FAMILY.original_layout(tensors)


@pytest.fixture
def folder(tiny_base, tmp_path):
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


def equal(one, other) -> bool:
    pairs = [(a.state_dict(), other.modules()[part].state_dict()) for part, a in one.modules().items()]
    return all(a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a) for a, b in pairs)


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_folder_predicts_and_encodes_as_diffusers_does(model, tiny_base):
    theirs = StableDiffusionPipeline.from_pretrained(tiny_base, local_files_only=True)
    text = FAMILY.encode_prompts(model, ["a sks dog"])
    embedded, _ = theirs.encode_prompt("a sks dog", "cpu", 1, False)
    assert torch.allclose(text["text"], embedded, atol=1e-5)
    latents = torch.randn(1, 4, 8, 8)
    predicted = theirs.unet(latents, torch.tensor([7]), embedded).sample
    assert torch.allclose(FAMILY.predict(model, latents, torch.tensor([7]), text), predicted, atol=1e-5)
    pixels = torch.rand(1, 3, SIDE_PX, SIDE_PX) * 2 - 1
    posterior = theirs.vae.encode(pixels).latent_dist
    assert torch.allclose(FAMILY.encode_images(model, pixels).mean, posterior.mean * 0.18215, atol=1e-5)
    assert torch.allclose(FAMILY.encode_images(model, pixels).std, posterior.std * 0.18215, atol=1e-5)


def test_latents_are_drawn_from_the_posterior_by_the_generator_alone(model):
    posterior = FAMILY.encode_images(model, torch.zeros(1, 3, SIDE_PX, SIDE_PX))
    one, other = (posterior.sample(torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(one, other)
    assert not torch.equal(one, posterior.mean)


def test_everything_is_frozen_and_in_eval_mode(model):
    for module in model.modules().values():
        assert not module.training
        assert not any(p.requires_grad or p.is_meta for p in module.parameters())
        assert not any(b.is_meta for b in module.buffers())


def test_the_base_knows_its_own_resolution(model):
    assert model.resolution_px == SIDE_PX


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_one_file_in_the_original_layout_is_the_same_model(model, original, tiny_base, tmp_path, suffix):
    path = tmp_path / f"one{suffix}"
    if suffix == ".ckpt":
        torch.save({"state_dict": original, "global_step": 3}, path)
    else:
        save_file(original, path)
    assert equal(model, FAMILY.load(path, config_source=tiny_base, allow_pickle=True))


def test_a_merge_that_lost_the_text_model_level_is_read(model, original, tiny_base, tmp_path):
    renamed = {name.replace("transformer.text_model.", "transformer."): tensor for name, tensor in original.items()}
    ignored = {"model_ema.decay": torch.ones(1), "cond_stage_model.transformer.embeddings.position_ids": torch.ones(1)}
    save_file(renamed | ignored, tmp_path / "merge.safetensors")
    assert equal(model, FAMILY.load(tmp_path / "merge.safetensors", config_source=tiny_base))


def test_the_vae_of_an_old_folder_is_read(model, folder):
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    new_to_old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    tensors = load_file(path)
    for new, old in new_to_old.items():
        tensors = {name.replace(new, old): tensor for name, tensor in tensors.items()}
    save_file(tensors, path)
    assert equal(model, FAMILY.load(folder))


@pytest.mark.parametrize("form", ["folder", "original file", "diffusers file"])
def test_another_vae_takes_the_place_of_the_bases_own(model, tiny_base, tmp_path, form):
    vae = tiny_vae()
    vae.save_pretrained(tmp_path / "vae")
    weights = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = {f"vae.{name}": tensor for name, tensor in vae.state_dict().items()}
    bare = {n.removeprefix("first_stage_model."): t for n, t in FAMILY.original_layout(tensors).items()}
    save_file(bare, tmp_path / "vae.safetensors")
    source = {"folder": tmp_path, "original file": tmp_path / "vae.safetensors", "diffusers file": weights}[form]
    loaded = FAMILY.load(tiny_base, vae=source)
    assert all(torch.equal(t, loaded.vae.state_dict()[name]) for name, t in vae.state_dict().items())
    assert torch.equal(loaded.denoiser.conv_in.weight, model.denoiser.conv_in.weight)


def test_a_file_of_another_vocabulary_asks_for_a_config(original, tmp_path):
    save_file(original, tmp_path / "one.safetensors")
    with pytest.raises(BaseModelUnsupported, match=r"514 words.*baseModel\.configUri"):
        FAMILY.load(tmp_path / "one.safetensors")


def test_a_file_with_clips_vocabulary_needs_nothing_else(original, tmp_path):
    name = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
    words = torch.randn(clip_vocabulary.CLIP_VOCABULARY_SIZE, original[name].shape[1])
    save_file(original | {name: words}, tmp_path / "one.safetensors", {"modelspec.resolution": f"{SIDE_PX}x{SIDE_PX}"})
    model = FAMILY.load(tmp_path / "one.safetensors")
    assert model.resolution_px == SIDE_PX
    ids = model.text[0].tokenizer("a photo of sks dog").input_ids
    assert ids == [49406, 320, 1125, 539, 48136, 1929, 49407]


OTHER_KINDS = {
    "SDXL": ({"conditioner.embedders.0.x": 1}, "Stable Diffusion XL"),
    "SD2": ({"cond_stage_model.model.ln_final.weight": 1}, "Stable Diffusion 2"),
    "FLUX": ({"double_blocks.0.img_attn.qkv.weight": 1}, "FLUX"),
    "a LoRA": ({"lora_unet_mid_block_x.alpha": 1}, "a LoRA"),
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_another_kind_of_file_is_refused_with_its_name(tmp_path, kind):
    names, words = OTHER_KINDS[kind]
    save_file({name: torch.zeros(size) for name, size in names.items()}, tmp_path / "x.safetensors")
    with pytest.raises(BaseModelUnsupported, match=words):
        FAMILY.load(tmp_path / "x.safetensors")


def test_an_inpainting_file_is_refused(original, tmp_path):
    name = "model.diffusion_model.input_blocks.0.0.weight"
    save_file(original | {name: torch.zeros(32, 9, 3, 3)}, tmp_path / "x.safetensors")
    with pytest.raises(BaseModelUnsupported, match=r"inpainting.* reads 9"):
        FAMILY.load(tmp_path / "x.safetensors")


WRONG_CONFIGS = {
    "inpainting": ("unet/config.json", {"in_channels": 9}, "inpainting"),
    "distilled": ("unet/config.json", {"time_cond_proj_dim": 256}, "time_cond_proj_dim = 256"),
    "SD2": ("unet/config.json", {"use_linear_projection": True}, "use_linear_projection"),
    "SD2's text": ("text_encoder/config.json", {"hidden_act": "gelu"}, "Stable Diffusion 2"),
    "SDXL": ("model_index.json", {"_class_name": "StableDiffusionXLPipeline"}, "StableDiffusionXLPipeline"),
    "another noise": ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, "prediction_type|sample"),
    "all the memory": ("unet/config.json", {"block_out_channels": [10**9] * 3}, "4096 is the most"),
    "all day": ("vae/config.json", {"layers_per_block": 10**9}, "16 is the most"),
    "no network": ("unet/config.json", {"down_block_types": ["os.system"]}, "describe no Stable Diffusion 1"),
}


@pytest.mark.parametrize("case", WRONG_CONFIGS)
def test_a_folder_whose_configs_say_otherwise_is_refused(folder, case):
    file, values, words = WRONG_CONFIGS[case]
    change(folder / file, **values)
    with pytest.raises(BaseModelUnsupported, match=words):
        FAMILY.load(folder)


def _lacking(tensors):
    return {n: t for n, t in tensors.items() if n != "conv_in.weight"}


def _unknown(tensors):
    return tensors | {"stranger.weight": torch.ones(1)}


def _not_finite(tensors):
    return tensors | {"conv_in.bias": torch.full((32,), float("nan"))}


def _misshapen(tensors):
    return tensors | {"conv_in.bias": torch.ones(31)}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_lacking, "lacks conv_in.weight"),
        (_unknown, "does not know stranger.weight"),
        (_not_finite, "not finite numbers in conv_in.bias"),
        (_misshapen, "another shape for conv_in.bias"),
    ],
)
def test_weights_that_do_not_fit_are_named(folder, damage, words):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(damage(load_file(path)), path)
    with pytest.raises(BaseModelUnreadable, match=words):
        FAMILY.load(folder)


@pytest.mark.parametrize(
    "missing",
    ["model_index.json", "unet/config.json", "vae/diffusion_pytorch_model.safetensors", "tokenizer/tokenizer.json"],
)
def test_a_folder_that_lacks_a_file_says_which(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(BaseModelUnreadable, match=missing.partition("/")[0]):
        FAMILY.load(folder)


def test_a_folder_with_pickled_weights_needs_the_users_word(model, folder):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()
    with pytest.raises(PickleRefused, match="allowPickle"):
        FAMILY.load(folder)
    assert equal(model, FAMILY.load(folder, allow_pickle=True))


def test_a_velocity_base_trains_towards_velocity(tiny_base, folder):
    change(folder / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    model = FAMILY.load(folder)
    assert isinstance(model.objective, objectives.Velocity)
    assert FAMILY.pipeline(model).scheduler.config.prediction_type == "v_prediction"


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_noise_and_target_are_those_of_diffusers(kind, zero_snr):
    config = SCHEDULER_CONFIG | {"prediction_type": kind, "rescale_betas_zero_snr": zero_snr}
    theirs = DDPMScheduler.from_config(
        {k: v for k, v in config.items() if k not in ("set_alpha_to_one", "steps_offset")}
    )
    ours = objectives.from_scheduler_config(config)
    latents, noise, t = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.tensor([0, 500, 999])
    assert torch.allclose(ours.corrupt(latents, noise, t), theirs.add_noise(latents, noise, t), atol=1e-4)
    target = theirs.get_velocity(latents, noise, t) if kind == "v_prediction" else noise
    assert torch.allclose(ours.target(latents, noise, t), target, atol=1e-4)


def test_of_a_published_folder_only_what_is_read_is_chosen():
    there = [
        "README.md", "model_index.json", "v1-5-pruned.ckpt", "v1-5-pruned.safetensors", "safety_checker/config.json",
        "safety_checker/model.safetensors", "feature_extractor/preprocessor_config.json",
        "scheduler/scheduler_config.json", "text_encoder/config.json", "text_encoder/model.safetensors",
        "text_encoder/pytorch_model.bin", "text_encoder/model.fp16.safetensors", "tokenizer/vocab.json",
        "tokenizer/merges.txt", "unet/config.json", "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors", "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ]  # fmt: skip
    assert select_files(there) == [
        "model_index.json", "scheduler/scheduler_config.json", "unet/config.json", "vae/config.json",
        "text_encoder/config.json", "tokenizer/vocab.json", "tokenizer/merges.txt",
        "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
    ]  # fmt: skip
