"""One params class per training method: what the user may set, and what the method needs of a family."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from dreambooth_api.base import Record


class Capability(StrEnum):
    """What a family offers and a method may need."""

    LINEAR = "linear"
    CONV = "conv"
    TEXT_ENCODER = "text-encoder"


class Full(Record):
    """Every weight of the denoiser moves; the result is a whole checkpoint."""

    needs: ClassVar[frozenset[Capability]] = frozenset()

    train_text_encoder: bool = False
    """Whether the text encoder's weights move too. It learns faces better and forgets more of the class."""


class Lora(Record):
    """Low-rank adapters beside frozen weights (Hu et al. 2021); the result is one small file."""

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.LINEAR})

    rank: Annotated[int, Field(ge=1, le=256)] = 16
    """Rank of the adapters on linear layers. Higher holds more detail and a larger file."""
    alpha: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Strength: the adapter is scaled by alpha/rank. Left out: the rank."""
    conv_rank: Annotated[int, Field(ge=1, le=256)] | None = None
    """Rank of adapters on convolutions. Left out: convolutions stay as they are."""
    conv_alpha: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Strength of the adapters on convolutions. Left out: convRank."""
    train_text_encoder: bool = True
    """Whether the text encoder gets adapters too."""


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
