"""A stranger's weight file: bounded before it is opened, and never run."""

from __future__ import annotations

import pickle
import struct
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dreambooth_job.errors import BaseModelUnreadable, PickleRefused
from dreambooth_job.families import weights


class Attack:
    """Creates a file as soon as somebody unpickles it."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def test_a_pickle_that_would_run_code_is_refused_and_names_it(tmp_path):
    torch.save({"state_dict": {"a": torch.ones(1)}, "extra": Attack(tmp_path / "ran")}, tmp_path / "x.ckpt")
    with pytest.raises(PickleRefused, match=r"x\.ckpt asks for .*Path"):
        weights.read_weights(tmp_path / "x.ckpt", allow_pickle=True)
    assert not (tmp_path / "ran").exists()


def test_a_pickle_without_the_users_word_is_not_even_opened(tmp_path):
    with pytest.raises(PickleRefused, match=r"baseModel\.allowPickle"):
        weights.read_weights(tmp_path / "not-there.ckpt")


@pytest.mark.parametrize("protocol", ["legacy", "plain pickle"])
def test_an_old_or_plain_pickle_is_refused(tmp_path, protocol):
    path = tmp_path / "x.ckpt"
    if protocol == "legacy":
        torch.save({"a": torch.ones(1)}, path, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(pickle.dumps({"extra": Attack(tmp_path / "ran")}))
    with pytest.raises(PickleRefused, match="without trusting it"):
        weights.read_weights(path, allow_pickle=True)
    assert not (tmp_path / "ran").exists()


def test_what_old_training_scripts_left_in_a_checkpoint_is_tolerated(tmp_path, monkeypatch):
    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    module.ModelCheckpoint = type(
        "ModelCheckpoint", (), {"__module__": module.__name__, "__qualname__": "ModelCheckpoint"}
    )
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    content = {
        "state_dict": {"a": torch.arange(3.0)},
        "callbacks": {module.ModelCheckpoint: {"best_model_score": np.float64(0.5)}},
    }
    torch.save(content, tmp_path / "x.ckpt")
    for name in [name for name in sys.modules if name.startswith("pytorch_lightning")]:
        monkeypatch.delitem(sys.modules, name)
    tensors, _ = weights.read_weights(tmp_path / "x.ckpt", allow_pickle=True)
    assert tensors.keys() == {"a"}
    assert torch.equal(tensors["a"], torch.arange(3.0))


def with_header(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


DAMAGED = {
    "empty": b"",
    "a header of a terabyte": struct.pack("<Q", 2**40),
    "a header that is no JSON": with_header(b"nonsense"),
    "a header that is a list": with_header(b"[]"),
    "a header too deep": with_header(b"[" * 200_000),
    "too many tensors": with_header(b"{" + b",".join(b'"%d":1' % n for n in range(20_001)) + b"}"),
    "tensors that are not there": with_header(b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_safetensors_file_is_refused(tmp_path, case):
    (tmp_path / "x.safetensors").write_bytes(DAMAGED[case])
    with pytest.raises(BaseModelUnreadable, match=r"x\.safetensors"):
        weights.read_weights(tmp_path / "x.safetensors")


def test_tensors_and_metadata_of_a_good_file_are_read(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "x.safetensors", {"word": "value"})
    tensors, metadata = weights.read_weights(tmp_path / "x.safetensors")
    assert torch.equal(tensors["a"], torch.ones(2))
    assert metadata == {"word": "value"}
