"""One S3 server (versitygw over a folder), and what tests do to it: buckets, outages.

Metadata lies in a side folder, not in extended attributes, so any file system will do.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devcluster.processes import LOOPBACK, Program, port_answers, start, start_on_free_ports

REGION = "us-east-1"
START_SECONDS = 60


@dataclass(frozen=True, slots=True)
class S3Access:
    """Where the server is and the root credentials, random per server."""

    endpoint: str  # http://host:port
    access_key: str
    secret_key: str

    def client(self, **config: Any) -> Any:
        """A boto3 client, path style; `config` goes to botocore's Config."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(s3={"addressing_style": "path"}, **config),
        )

    def secret_data(self) -> dict[str, str]:
        """The keys of a credentials Secret, as `stringData`."""
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}


class S3Server:
    """The running server. It may be stopped and started again: port, credentials and objects stay."""

    def __init__(self, versitygw: Path, folder: Path, address: str = LOOPBACK) -> None:
        self._versitygw, self._folder, self._address = versitygw, folder, address
        self._access_key, self._secret_key = secrets.token_hex(10).upper(), secrets.token_urlsafe(30)
        self._port = 0
        self.program: Program | None = None
        for name in ("buckets", "metadata"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    @property
    def access(self) -> S3Access:
        return S3Access(f"http://{self._address}:{self._port}", self._access_key, self._secret_key)

    def start(self) -> None:
        """Returns when connections are accepted. Raises DidNotStart."""
        if self._port:
            self._start(self._port)
        else:
            (self._port,) = start_on_free_ports(1, self._start, self.stop)

    def stop(self) -> None:
        """At once, as a power cut: what was answered with success must be there afterwards."""
        if self.program:
            self.program.kill()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Nobody listens inside the block; the same port answers again after it."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def _start(self, port: int) -> None:
        # Credentials go by the environment: a command line can be read by every user of the machine.
        env = _minimal_env() | {"ROOT_ACCESS_KEY": self._access_key, "ROOT_SECRET_KEY": self._secret_key}
        flags = ["--port", f"{self._address}:{port}", "--region", REGION, "--quiet"]
        backend = ["posix", "--sidecar", str(self._folder / "metadata"), str(self._folder / "buckets")]
        self.program = start("s3", [self._versitygw, *flags, *backend], self._folder / "logs", env=env)
        self.program.wait_until(lambda: port_answers(port, self._address), START_SECONDS)


def _minimal_env() -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin"}


def list_objects(client: Any, uri: str) -> Iterator[str]:
    """One line per object below `s3://bucket/prefix`, or per bucket for `s3://`: time, size in bytes, key."""
    bucket, prefix = _split(uri)
    if not bucket:
        for one in client.list_buckets()["Buckets"]:
            yield f"{one['CreationDate']:%Y-%m-%d %H:%M:%S} s3://{one['Name']}/"
        return
    for one in _objects(client, bucket, prefix):
        yield f"{one['LastModified']:%Y-%m-%d %H:%M:%S} {one['Size']:>10} s3://{bucket}/{one['Key']}"


def upload(client: Any, source: Path, uri: str) -> int:
    """Puts one file, or every file below a folder, below `s3://bucket/prefix/`; returns how many."""
    bucket, prefix = _split(uri)
    folder = source if source.is_dir() else source.parent
    paths = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
    for path in paths:
        key = "/".join(part for part in (prefix.rstrip("/"), path.relative_to(folder).as_posix()) if part)
        client.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())
    return len(paths)


def download(client: Any, uri: str, folder: Path) -> int:
    """Fetches every object below `s3://bucket/prefix` into the folder, which it never leaves; returns how many."""
    bucket, prefix = _split(uri)
    count = 0
    for one in _objects(client, bucket, prefix):
        relative = one["Key"][len(prefix) :].lstrip("/") or one["Key"].rpartition("/")[2]
        path = (folder / relative).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise ValueError(f"key {one['Key']!r} would leave {folder}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(client.get_object(Bucket=bucket, Key=one["Key"])["Body"].read())
        count += 1
    return count


def remove(client: Any, uri: str) -> None:
    """Deletes every object below `s3://bucket/prefix`."""
    bucket, prefix = _split(uri)
    for one in list(_objects(client, bucket, prefix)):
        client.delete_object(Bucket=bucket, Key=one["Key"])


def _objects(client: Any, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        yield from page.get("Contents", ())


def _split(uri: str) -> tuple[str, str]:
    if not uri.startswith("s3://"):
        raise ValueError(f"{uri!r} is no URI of a bucket; expected s3://bucket/prefix")
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    return bucket, prefix
