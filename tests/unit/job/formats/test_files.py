"""Names, sidecars and the safetensors writer."""

from __future__ import annotations

import hashlib

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from dreambooth_job.formats import about, safetensors_file

STEMS = {
    "Rex": "rex",
    "My Dog_v1.5": "my-dog-v1-5",
    "--a--": "a",
    "Ünïcode": "n-code",
    "": "model",
    "None": "none-model",
    "x" * 300: "x" * 100,
}


@pytest.mark.parametrize("name", STEMS)
def test_a_stem_holds_only_what_every_ui_takes(name):
    assert about.safe_stem(name) == STEMS[name]


def test_the_library_reads_what_is_written_with_its_hash(tmp_path):
    tensors = {
        "b": torch.randn(3, 2),
        "a": torch.randn(5).half(),
        "c": torch.tensor(8.0),
        "d": torch.zeros(0).bfloat16(),
    }
    path = tmp_path / "x.safetensors"
    safetensors_file.write(path, tensors, {"format": "pt", "word": 'quote " and ü'})
    read = load_file(path)
    assert all(torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype for name, tensor in tensors.items())
    with safe_open(path, "pt") as file:
        words = file.metadata()
    header, size = safetensors_file.read_header(path)
    assert words["word"] == 'quote " and ü'
    assert words["sshs_model_hash"] == hashlib.sha256(path.read_bytes()[8 + size :]).hexdigest()
    assert words["modelspec.hash_sha256"] == "0x" + words["sshs_model_hash"]
    assert size % 8 == 0
    assert header["b"]["data_offsets"][0] % 4 == 0


def test_the_order_of_tensors_and_words_does_not_matter(tmp_path):
    tensors, words = {"b": torch.ones(2), "a": torch.zeros(2)}, {"x": "1", "format": "pt"}
    safetensors_file.write(tmp_path / "1", tensors, words)
    safetensors_file.write(tmp_path / "2", dict(reversed(tensors.items())), dict(reversed(words.items())))
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
