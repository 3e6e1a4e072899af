"""The base of every record in the contract: frozen, camelCase outside and snake_case inside, unknown fields refused."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Record(BaseModel):
    """A part of the user's spec. A typo in a field name is an error, never dropped."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        use_attribute_docstrings=True,
    )


class Report(Record):
    """A record that one of our processes writes and another reads: fields of a newer version are ignored."""

    model_config = ConfigDict(extra="ignore")
