"""Every allowed pair of family and method, on tiny random weights: the promises of `contracts.py`, one by one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from dreambooth_api.families import FAMILIES as ROWS
from dreambooth_api.methods import Capability, Full, Lora, Method
from dreambooth_job.contracts import Family, Model
from dreambooth_job.families import FAMILIES
from dreambooth_job.methods import METHODS
from dreambooth_job.training import checkpoints, loop
from dreambooth_job.training.config import TrainingConfig
from tests.tiny import tiny_examples

METHOD_CASES = {
    "full": Method(full=Full()),
    "full with text": Method(full=Full(train_text_encoder=True)),
    "lora": Method(lora=Lora(rank=4, alpha=8, train_text_encoder=False)),
    "lora with text and conv": Method(lora=Lora(rank=4, alpha=2, conv_rank=2)),
}
CONFIG = TrainingConfig(steps=4, learning_rate=1e-2, text_learning_rate=1e-3, gradient_accumulation=2, warmup_steps=2)


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


@pytest.fixture(params=METHOD_CASES)
def method(request: pytest.FixtureRequest) -> Method:
    return METHOD_CASES[request.param]


@pytest.fixture
def fresh(family: Family, method: Method, tiny_base: Path) -> Callable[[], SimpleNamespace]:
    """A new model with the method attached, as a new process would make it."""

    def make() -> SimpleNamespace:
        model = family.load(tiny_base)
        generator = loop.generator_for(0, -1)
        trainable = METHODS[method.name].attach(model, family.sites(model), method.params, generator)
        return SimpleNamespace(family=family, model=model, state=loop.begin(trainable, CONFIG, "cpu"))

    return make


def predictions(family: Family, model: Model) -> Tensor:
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        conditioning = family.encode_prompts(model, ["a sks dog", "a dog"])
        return family.predict(model, latents, torch.tensor([10, 500]), conditioning)


def train(run: SimpleNamespace, stop_after: int = CONFIG.steps) -> list[loop.Step]:
    examples, steps = tiny_examples(), []
    loop.train(
        run.family, run.model, run.state, examples, lambda number: [examples[number % 2], examples[2 + number % 2]],
        CONFIG, on_step=steps.append, stop=lambda: run.state.step >= stop_after,
    )  # fmt: skip
    return steps


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def weights(model: Model) -> dict[str, Tensor]:
    return {f"{p}.{n}": t.clone() for p, module in model.modules().items() for n, t in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_attaching_changes_no_prediction(family, tiny_base, fresh):
    assert torch.equal(predictions(family, family.load(tiny_base)), predictions(family, fresh().model))


def test_training_moves_what_it_declared_and_nothing_else(fresh):
    run = fresh()
    before, started = weights(run.model), copied(run.state.trainable.state())
    train(run)
    after, declared = weights(run.model), run.state.trainable.state()
    assert all(not torch.equal(started[name], declared[name]) for name in declared if _can_move(name))
    assert all(torch.equal(before[name], after[name]) for name in before.keys() - declared.keys())


def _can_move(name: str) -> bool:
    """The tiny text never gets as far as most of the table's words and positions; a key's bias cancels in softmax."""
    return "k_proj.bias" not in name


def test_training_changes_the_prediction_and_restoring_brings_it_back(family, fresh):
    run = fresh()
    started, before = copied(run.state.trainable.state()), predictions(family, run.model)
    train(run)
    assert not torch.allclose(before, predictions(family, run.model))
    run.state.trainable.restore(started)
    assert torch.equal(before, predictions(family, run.model))


def test_an_interrupted_run_ends_bit_for_bit_like_an_uninterrupted_one(fresh, tmp_path):
    whole, first, second = fresh(), fresh(), fresh()
    train(whole)
    train(first, stop_after=2)
    checkpoints.save(tmp_path, first.state)
    checkpoints.restore(tmp_path, second.state)
    assert second.state.step == 2
    train(second)
    assert same(whole.state.trainable.state(), second.state.trainable.state())
    checkpoints.save(tmp_path / "whole", whole.state)
    checkpoints.save(tmp_path / "resumed", second.state)
    for name in checkpoints.FILES:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "resumed" / name).read_bytes()


def test_a_state_of_other_names_is_not_taken(fresh):
    trainable = fresh().state.trainable
    with pytest.raises(KeyError):
        trainable.restore({f"{name}.x": tensor for name, tensor in trainable.state().items()})


def test_what_a_family_does_not_offer_is_refused_with_a_reason():
    bare = dataclasses.replace(ROWS["sd1"], title="Bare", offers=frozenset({Capability.LINEAR}))
    assert bare.refusal(METHOD_CASES["full"]) is None
    assert bare.refusal(METHOD_CASES["lora"]) is None
    assert bare.refusal(METHOD_CASES["full with text"]) == "full needs a text encoder, which Bare does not offer"
    refusal = bare.refusal(METHOD_CASES["lora with text and conv"])
    assert refusal == "lora needs a text encoder, convolutions, which Bare does not offer"


def test_every_row_has_its_family_and_every_method_its_rate():
    assert ROWS.keys() == FAMILIES.keys()
    assert all(row.rates.keys() == row.rate_reasons.keys() == METHODS.keys() for row in ROWS.values())
