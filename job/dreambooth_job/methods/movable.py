"""The numbers that may move, by stable name: what every method's `Trainable` is made of."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dreambooth_job.contracts import ParamGroup


class Movable:
    """Parameters by `<part>.<module path>.<name>`; those of a part `text.N` train with the text encoder's rate."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self.parameters = dict(parameters)

    @property
    def trains_text(self) -> bool:
        return any(name.startswith("text.") for name in self.parameters)

    def groups(self) -> list[ParamGroup]:
        text = [p for name, p in self.parameters.items() if name.startswith("text.")]
        denoiser = [p for name, p in self.parameters.items() if not name.startswith("text.")]
        return [ParamGroup(denoiser, text=False), *([ParamGroup(text, text=True)] if text else [])]

    def state(self) -> dict[str, Tensor]:
        """The live tensors, not copies: save or clone them before the next step."""
        return {name: parameter.detach() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Copies a `state()` back in; raises KeyError when the names are not the same."""
        if state.keys() != self.parameters.keys():
            raise KeyError(f"the state holds {len(state)} tensors, {len(self.parameters)} of other names are trained")
        for name, parameter in self.parameters.items():
            parameter.copy_(state[name])
