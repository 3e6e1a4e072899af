"""`python -m devcluster`: a cluster to play with, and its buckets.

up, down, status [--state FOLDER]     start, end, describe a cluster that outlives the command
s3 ls s3://BUCKET/PREFIX              list objects, as `aws s3 ls --recursive` does
s3 cp FOLDER s3://BUCKET/PREFIX       upload a folder's files, or one file
s3 cp s3://BUCKET/PREFIX FOLDER       download what lies below
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from devcluster import supervisor
from devcluster.processes import DidNotStart
from devcluster.s3 import download, list_objects, upload
from devcluster.toolchain import ToolchainError, cache_dir, say_on_stderr


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except (DidNotStart, ToolchainError, ValueError, OSError, BotoCoreError, ClientError) as error:
        print(error, file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m devcluster", description="A throw-away cluster on this machine.")
    parser.add_argument("--state", type=lambda text: Path(text).absolute(), default=cache_dir() / "demo")
    commands = parser.add_subparsers(required=True)
    for name, run in (("up", _up), ("down", _down), ("status", _status)):
        commands.add_parser(name).set_defaults(run=run)
    s3 = commands.add_parser("s3").add_subparsers(required=True)
    ls = s3.add_parser("ls")
    ls.add_argument("uri", nargs="?", default="s3://")
    ls.set_defaults(run=_ls)
    cp = s3.add_parser("cp")
    cp.add_argument("source")
    cp.add_argument("target")
    cp.set_defaults(run=_cp)
    return parser


def _up(options: argparse.Namespace) -> None:
    running = supervisor.up(options.state, say_on_stderr)
    print(f"export KUBECONFIG={shlex.quote(str(running.kubeconfig))}")


def _down(options: argparse.Namespace) -> None:
    supervisor.down(options.state)


def _status(options: argparse.Namespace) -> int:
    running = supervisor.status(options.state)
    if running is None:
        print(f"no cluster in {options.state}")
        return 1
    print(f"{'running' if running.healthy() else 'broken'}: {running.server}, {running.s3.endpoint}")
    print(f"export KUBECONFIG={shlex.quote(str(running.kubeconfig))}")
    return 0


def _ls(options: argparse.Namespace) -> int:
    client = _client(options)
    if client is None:
        return 1
    for line in list_objects(client, options.uri):
        print(line)
    return 0


def _cp(options: argparse.Namespace) -> int:
    client = _client(options)
    if client is None:
        return 1
    if options.target.startswith("s3://"):
        count = upload(client, Path(options.source), options.target)
    else:
        count = download(client, options.source, Path(options.target))
    print(f"{count} files")
    return 0 if count else 1


def _client(options: argparse.Namespace) -> Any:
    running = supervisor.status(options.state)
    if running is None:
        print(f"no cluster in {options.state}; start one with `make demo`", file=sys.stderr)
        return None
    return running.s3.client()


if __name__ == "__main__":
    sys.exit(main())
