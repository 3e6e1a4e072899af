"""One row per model family: what it offers a training method, and what is usual for it.

A method is allowed on a family when everything it needs is offered, so no table of pairs is kept; the code of a family
lives in the job under the same name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dreambooth_api.methods import Capability, Method


@dataclass(frozen=True)
class FamilyRow:
    """A family as the spec and the resolver see it. `rates` holds the denoiser's usual learning rate per method."""

    name: str
    title: str
    resolution_px: int  # of the published bases; a loaded checkpoint knows its own
    latent_factor: int  # pixels per latent along one side
    offers: frozenset[Capability]
    rates: Mapping[str, float]
    rate_reasons: Mapping[str, str]  # the sentence that goes with the rate into config.json and the report

    def refusal(self, method: Method) -> str | None:
        """Why this method cannot train this family, or None when it can."""
        lacking = method.params.needed() - self.offers
        if not lacking:
            return None
        return f"{method.name} needs {', '.join(sorted(lacking))}, which {self.title} does not offer"


SD1 = FamilyRow(
    name="sd1",
    title="Stable Diffusion 1",
    resolution_px=512,
    latent_factor=8,
    offers=frozenset({Capability.LINEAR, Capability.CONV, Capability.TEXT_ENCODER}),
    rates={"full": 2e-6, "lora": 1e-4},
    rate_reasons={
        "full": "DreamBooth's authors and diffusers use 2e-6 to 5e-6 for all weights; the lower end forgets less",
        "lora": "diffusers and kohya use 1e-4 for adapters and half of it for the text encoder",
    },
)

FAMILIES: dict[str, FamilyRow] = {row.name: row for row in (SD1,)}
