"""LoRA's own arithmetic, and that it comes off again."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dreambooth_api.methods import Lora
from dreambooth_job.families import FAMILIES
from dreambooth_job.methods import METHODS
from dreambooth_job.methods.lora import Adapter

FAMILY = FAMILIES["sd1"]
BASES = {
    "linear": (nn.Linear(6, 5), torch.randn(2, 6)),
    "strided convolution": (nn.Conv2d(4, 5, 3, stride=2, padding=1), torch.randn(2, 4, 8, 8)),
    "half-precision linear": (nn.Linear(6, 5).bfloat16(), torch.randn(2, 6).bfloat16()),
}


@pytest.mark.parametrize("kind", BASES)
def test_an_adapter_adds_alpha_over_rank_times_its_product(kind):
    base, inputs = BASES[kind]
    adapter = Adapter(base, rank=2, alpha=6, generator=torch.Generator().manual_seed(0))
    handle, before = adapter.add_to(base), base(inputs)
    with torch.no_grad():
        adapter.up.weight.normal_()
    added = base(inputs) - before
    assert torch.allclose(
        added.float(), 3 * adapter.up(adapter.down(inputs.float())), atol=0.1 if added.dtype != torch.float32 else 1e-5
    )
    assert base(inputs).dtype == before.dtype
    handle.remove()
    assert torch.equal(base(inputs), before)


def test_the_start_is_random_by_the_generator_and_adds_nothing(tiny_base):
    model = FAMILY.load(tiny_base)
    states = []
    for seed in (0, 0, 1):
        trainable = METHODS["lora"].attach(
            model, FAMILY.sites(model), Lora(rank=2), torch.Generator().manual_seed(seed)
        )
        states.append({name: tensor.clone() for name, tensor in trainable.state().items()})
        trainable.remove()
    assert all(not t.any() for name, t in states[0].items() if "lora_up" in name)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_adapters_sit_where_asked_and_tell_their_alpha(tiny_base):
    model = FAMILY.load(tiny_base)
    params = Lora(rank=4, conv_rank=2, conv_alpha=1, train_text_encoder=False)
    learned = METHODS["lora"].attach(model, FAMILY.sites(model), params, torch.Generator()).learned().tensors
    attention = "denoiser.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    assert learned[f"{attention}.lora_down.weight"].shape == (4, 64)
    assert learned[f"{attention}.alpha"] == 4
    assert learned["denoiser.down_blocks.0.downsamplers.0.conv.alpha"] == 1
    assert learned["denoiser.down_blocks.0.resnets.0.conv1.lora_down.weight"].shape == (2, 32, 3, 3)
    assert not any(name.startswith("text.") for name in learned)
    assert "denoiser.conv_in.alpha" not in learned
