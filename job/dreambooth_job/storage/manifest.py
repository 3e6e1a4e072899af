"""`manifest.json`: what a result consists of and where it came from. Written last; a reader begins with it.

Records only, no input or output. Inputs appear by index, size and digest: their names may be people's.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from dreambooth_api.names import MANIFEST_FILE
from dreambooth_job.contracts import Verification

MANIFEST = MANIFEST_FILE
_SEGMENT = re.compile(r"[A-Za-z0-9_.-]{1,255}")


def _relative(path: str) -> str:
    """A manifest is read from a bucket that others may write: its paths must not lead out of a folder."""
    for segment in path.split("/"):
        if not _SEGMENT.fullmatch(segment) or segment in {".", ".."}:
            raise ValueError("must be relative, of letters, digits, '_', '.', '-' and '/', without '..'")
    return path


RelativePath = Annotated[str, AfterValidator(_relative)]


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, extra="forbid")


class File(Record):
    path: RelativePath  # relative to the folder that holds the manifest
    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Input(Record):
    index: int
    size_bytes: int
    etag: str
    verification: Verification


class Manifest(Record):
    schema_version: Literal[1] = 1
    job_uid: str
    name: str
    namespace: str = ""
    attempt: str
    files: tuple[File, ...]
    base_model_digest: str
    inputs: dict[str, tuple[Input, ...]]  # by spec field: "subjects[0].images"
    config: dict[str, Any]  # every resolved value with its reason
    spec_digest: str
    metrics: dict[str, Any]
    created_at: datetime
    conditional: bool = True  # False: the store ignores conditions, so the commit was checked, then put

    def to_json(self) -> bytes:
        return self.model_dump_json(by_alias=True, indent=2).encode() + b"\n"


class CheckpointManifest(Record):
    schema_version: Literal[1] = 1
    step: int = Field(ge=0)
    attempt: str
    files: tuple[File, ...]

    def to_json(self) -> bytes:
        return self.model_dump_json(by_alias=True, indent=2).encode() + b"\n"
