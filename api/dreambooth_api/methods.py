"""One params class per training method: what the user may set, and what the method needs of a family."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from dreambooth_api.base import Record


class Capability(StrEnum):
    """What a family offers and a method may need."""

    LINEAR = "linear layers"
    CONV = "convolutions"
    TEXT_ENCODER = "a text encoder"


class Full(Record):
    """Every weight of the denoiser moves; the result is a whole checkpoint."""

    needs: ClassVar[frozenset[Capability]] = frozenset()

    train_text_encoder: bool = False
    """Whether the text encoder's weights move too. Set it when faces or fine detail are not learned well enough;
    it needs more memory and forgets more of the class."""

    def needed(self) -> frozenset[Capability]:
        """What these very settings need of a family."""
        return self.needs | ({Capability.TEXT_ENCODER} if self.train_text_encoder else frozenset())


class Lora(Record):
    """Low-rank adapters beside frozen weights (Hu et al. 2021, arXiv 2106.09685); the result is one small file."""

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.LINEAR})

    rank: Annotated[int, Field(ge=1, le=256)] = 16
    """Rank of the adapters on linear layers: how much they can hold. Raise it when detail is missing; the file grows
    with it, and so does the tendency to copy the pictures."""
    alpha: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Strength: an adapter is scaled by alpha/rank. Left out: the rank, a scale of 1; set it only to follow a recipe
    that names one, since it acts like the learning rate."""
    conv_rank: Annotated[int, Field(ge=1, le=256)] | None = None
    """Rank of adapters on the denoiser's convolutions. Left out: convolutions stay as they are; set 4 to 16 when
    texture or drawing style has to be learned."""
    conv_alpha: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Strength of the adapters on convolutions, as alpha is for linear layers. Left out: convRank, a scale of 1."""
    train_text_encoder: bool = True
    """Whether the text encoder gets adapters too. Set it to false when the token takes over words of other prompts."""

    def needed(self) -> frozenset[Capability]:
        """What these very settings need of a family."""
        conv = {Capability.CONV} if self.conv_rank else frozenset()
        text = {Capability.TEXT_ENCODER} if self.train_text_encoder else frozenset()
        return self.needs | conv | text


class Method(Record):
    """How the model changes: exactly one member is set."""

    model_config = {
        "json_schema_extra": {
            "x-kubernetes-validations": [
                {"rule": "has(self.full) != has(self.lora)", "message": "set exactly one of full and lora"}
            ]
        }
    }

    full: Full | None = None
    """Move every weight of the denoiser."""
    lora: Lora | None = None
    """Train low-rank adapters."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.full is None) == (self.lora is None):
            raise ValueError("set exactly one of full and lora")
        return self

    @property
    def name(self) -> str:
        return "full" if self.full is not None else "lora"

    @property
    def params(self) -> Full | Lora:
        chosen = self.full or self.lora
        assert chosen is not None
        return chosen
