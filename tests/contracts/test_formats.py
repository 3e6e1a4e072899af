"""Every format over tiny random weights: what others' readers make of a file is what was trained."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dreambooth_api.methods import Full, Lora
from dreambooth_job.errors import ResultUnusable
from dreambooth_job.families import FAMILIES
from dreambooth_job.formats import about, diffusers_folder, proof, safetensors_file, single_file, webui_adapter
from dreambooth_job.methods import METHODS
from tests.tiny import SIDE_PX

ABOUT = about.About(
    stem="rex", title="Rex", trigger="a photo of sks dog", description="A dog.", base_name="tiny",
    base_sha256="ab" * 32, resolution_px=SIDE_PX, prediction_type="epsilon", steps=4, seed=0, learning_rate=1e-4,
    text_learning_rate=5e-5, schedule="constant", prior_weight=1.0, pictures=6, class_pictures=6, started_unix=1,
    finished_unix=2, lineage={"uid": "u-1"}, thumbnail_jpeg=b"jpeg",
)  # fmt: skip


def trained(tiny_base: Path, params: Full | Lora) -> SimpleNamespace:
    """A model whose movable numbers have all been moved."""
    family = FAMILIES["sd1"]
    model = family.load(tiny_base)
    generator = torch.Generator().manual_seed(3)
    name = "full" if isinstance(params, Full) else "lora"
    trainable = METHODS[name].attach(model, family.sites(model), params, generator)
    with torch.no_grad():
        for tensor in trainable.state().values():
            tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.02)
            tensor.copy_(tensor.half().float())  # what the files can hold, so that predictions compare exactly
    return SimpleNamespace(family=family, model=model, trainable=trainable)


def predict(run: SimpleNamespace, denoiser=None, encoder=None) -> torch.Tensor:
    """The live modules' prediction, or that of modules which were read back."""
    encoder, denoiser = encoder or run.model.text[0].encoder, denoiser or run.model.denoiser
    tokens = torch.tensor([[512, *range(260, 270), *[513] * 66]])
    with torch.no_grad():
        text = encoder(tokens).last_hidden_state
        return denoiser(torch.ones(1, 4, 8, 8), torch.tensor([500]), text).sample


@pytest.fixture(scope="module")
def full_run(tiny_base, tmp_path_factory):
    run = trained(tiny_base, Full(train_text_encoder=True))
    run.to = tmp_path_factory.mktemp("full")
    run.folder = run.to / "diffusers"
    run.folder_files = diffusers_folder.write(run.model, run.family, run.folder)
    run.files = single_file.write(run.model, run.family, run.to, ABOUT)
    return run


@pytest.fixture(scope="module")
def lora_run(tiny_base, tmp_path_factory):
    run = trained(tiny_base, Lora(rank=4, alpha=8, conv_rank=2, conv_alpha=1))
    run.to = tmp_path_factory.mktemp("lora")
    run.files = webui_adapter.write(run.trainable.learned(), run.family, run.to, ABOUT)
    run.path = run.to / "rex.safetensors"
    return run


def test_the_whole_model_is_proven_by_diffusers_and_by_the_key_rules(full_run):
    proof.prove_folder(full_run.folder, full_run.model, full_run.family)
    proof.prove_single_file(full_run.to / "rex.safetensors", full_run.folder, full_run.model, full_run.family)


def test_the_folder_loads_here_again_as_a_base(full_run):
    again = full_run.family.load(full_run.folder)
    assert torch.equal(predict(full_run), predict(full_run, again.denoiser, again.text[0].encoder))


def test_the_single_file_loads_here_again_as_a_base(full_run):
    again = full_run.family.load(full_run.to / "rex.safetensors", config_source=full_run.folder)
    assert again.resolution_px == SIDE_PX
    assert torch.equal(predict(full_run), predict(full_run, again.denoiser, again.text[0].encoder))


def test_the_folder_holds_the_old_and_the_new_names_of_everything(full_run):
    paths = {str(p.relative_to(full_run.folder)) for p in full_run.folder_files}
    assert {"model_index.json", "tokenizer/vocab.json", "tokenizer/merges.txt", "tokenizer/tokenizer.json"} <= paths
    text = load_file(full_run.folder / "text_encoder" / "model.safetensors")
    assert all(name.startswith("text_model.") for name in text)
    assert {tensor.dtype for tensor in text.values()} == {torch.float16}
    index = json.loads((full_run.folder / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert index["safety_checker"] == [None, None]


def test_the_adapter_is_proven_and_the_model_predicts_as_before(lora_run):
    before = predict(lora_run)
    proof.prove_adapter(lora_run.path, lora_run.trainable.learned(), lora_run.model, lora_run.family)
    assert torch.equal(before, predict(lora_run))


def test_diffusers_loads_the_adapter_onto_the_base_exactly(lora_run, tiny_base):
    pipeline = lora_run.family.pipeline(lora_run.family.load(tiny_base))
    untouched = predict(lora_run, pipeline.unet, pipeline.text_encoder)
    pipeline.load_lora_weights(lora_run.to, weight_name="rex.safetensors", local_files_only=True)
    assert not torch.allclose(predict(lora_run), untouched)
    assert torch.equal(predict(lora_run), predict(lora_run, pipeline.unet, pipeline.text_encoder))


def test_the_adapter_file_tells_its_true_alpha_and_no_caption(lora_run):
    with safe_open(lora_run.path, "pt") as file:
        words, names = file.metadata(), list(file.keys())
        alphas = {file.get_tensor(n).item() for n in names if n.endswith("_attn1_to_q.alpha")}
    assert alphas == {8.0}
    assert (words["ss_network_dim"], words["ss_network_alpha"]) == ("4", "8.0")
    assert json.loads(words["ss_network_args"]) == {"conv_dim": "2", "conv_alpha": "1.0"}
    assert words["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert words["dreambooth.uid"] == "u-1"
    assert "ss_tag_frequency" not in words
    assert all(name.startswith(("lora_unet_", "lora_te_")) for name in names)


def test_the_sidecar_has_the_keys_that_the_uis_read_and_no_other(lora_run, full_run):
    for run in (lora_run, full_run):
        content = json.loads((run.to / "rex.json").read_text())
        assert content["activation text"] == "a photo of sks dog"
        assert content.keys() == {
            "description", "sd version", "activation text", "preferred weight", "negative text", "notes",
        }  # fmt: skip


def test_the_same_model_gives_the_same_bytes(lora_run, tmp_path):
    webui_adapter.write(lora_run.trainable.learned(), lora_run.family, tmp_path, ABOUT)
    assert (tmp_path / "rex.safetensors").read_bytes() == lora_run.path.read_bytes()


def _other_strength(tensors):
    name = next(n for n in tensors if n.endswith(".alpha"))
    return tensors | {name: tensors[name] * 2}


def _without_one(tensors):
    return dict(list(tensors.items())[1:])


def _a_name_no_ui_reads(tensors):
    name = next(n for n in tensors if n.startswith("lora_te_text_model_"))
    return {n.replace("lora_te_text_model_", "lora_te_") if n == name else n: t for n, t in tensors.items()}


@pytest.mark.parametrize("damage", [_other_strength, _without_one, _a_name_no_ui_reads])
def test_a_damaged_adapter_is_not_published(lora_run, tmp_path, damage):
    path = tmp_path / "rex.safetensors"
    safetensors_file.write(path, damage(load_file(lora_run.path)), {"format": "pt"})
    with pytest.raises(ResultUnusable, match="rex"):
        proof.prove_adapter(path, lora_run.trainable.learned(), lora_run.model, lora_run.family)


def test_a_file_with_another_hash_than_its_tensors_is_not_published(lora_run, tmp_path):
    path = tmp_path / "rex.safetensors"
    save_file(load_file(lora_run.path), path, {"sshs_model_hash": "0" * 64})
    with pytest.raises(ResultUnusable, match="hash"):
        proof.prove_adapter(path, lora_run.trainable.learned(), lora_run.model, lora_run.family)


def test_a_changed_weight_in_the_folder_or_the_file_is_not_published(full_run, tiny_base):
    other = trained(tiny_base, Full())
    with pytest.raises(ResultUnusable, match="differs from the trained model"):
        proof.prove_folder(full_run.folder, other.model, other.family)
    with pytest.raises(ResultUnusable, match="differs from the trained model"):
        proof.prove_single_file(full_run.to / "rex.safetensors", full_run.folder, other.model, other.family)
