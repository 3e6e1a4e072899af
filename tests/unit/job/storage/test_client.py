"""Who the job is to the store, and where its requests may go."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreambooth_job.errors import StorageMisconfigured
from dreambooth_job.storage.client import Connection, StorageSettings, connect
from dreambooth_job.storage.upload import MIB, part_bytes

ENDPOINT = "http://127.0.0.1:9"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "AWS_ACCESS_KEY_ID").write_text("id\n")
    (tmp_path / "AWS_SECRET_ACCESS_KEY").write_text(" secret\n")
    return tmp_path


def _keys(client) -> tuple[str, str, str | None]:
    frozen = client._request_signer._credentials.get_frozen_credentials()
    return frozen.access_key, frozen.secret_key, frozen.token


def test_the_secret_comes_before_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "shadow")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "shadow")
    client = connect(StorageSettings(ENDPOINT, None, folder))
    assert _keys(client) == ("id", "secret", None)
    (folder / "AWS_SESSION_TOKEN").write_text("token")
    assert _keys(client) == ("id", "secret", "token")


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_a_missing_key_of_the_secret_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(StorageMisconfigured, match=name):
        connect(StorageSettings(ENDPOINT, None, folder))


def test_the_nodes_own_role_is_never_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without credentials the chain ends; it must not fall through to 169.254.169.254."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setattr(
        "botocore.utils.InstanceMetadataFetcher.retrieve_iam_role_credentials",
        lambda self: pytest.fail("asked the node for its role"),
    )
    assert connect(StorageSettings(ENDPOINT))._request_signer._credentials is None


def test_an_endpoint_is_spoken_to_by_path_and_amazon_by_host(folder: Path) -> None:
    def url(settings: StorageSettings) -> str:
        return connect(settings).generate_presigned_url("get_object", Params={"Bucket": "photos", "Key": "a b"})

    assert url(StorageSettings(ENDPOINT, None, folder)).startswith(f"{ENDPOINT}/photos/a%20b?")
    assert "photos.s3" in url(StorageSettings(None, "eu-central-1", folder))


def test_a_bundle_in_the_secret_is_what_certificates_are_checked_against(folder: Path) -> None:
    (folder / "AWS_CA_BUNDLE").write_text("-----BEGIN CERTIFICATE-----")
    client = connect(StorageSettings("https://store.example", None, folder))
    assert client._endpoint.http_session._verify == str(folder / "AWS_CA_BUNDLE")


def test_the_client_does_not_retry_by_itself_and_adds_no_checksums(folder: Path) -> None:
    config = connect(StorageSettings(ENDPOINT, None, folder)).meta.config
    assert config.retries["total_max_attempts"] == 1
    assert config.request_checksum_calculation == config.response_checksum_validation == "when_required"
    assert (config.connect_timeout, config.read_timeout) == (5.0, 20.0)


def test_of_many_parts_that_find_their_credentials_expired_one_renews(folder: Path) -> None:
    connection = Connection(StorageSettings(ENDPOINT, None, folder))
    used = connection.client
    connection.renew(used)
    renewed = connection.client
    connection.renew(used)
    assert renewed is connection.client is not used


@pytest.mark.parametrize(
    ("size", "part"),
    [
        (0, 16 * MIB),
        (9000 * 16 * MIB, 16 * MIB),
        (9000 * 16 * MIB + 1, 17 * MIB),
        (5 * 1024**4, 583 * MIB),
    ],
)
def test_an_upload_never_has_too_many_parts(size: int, part: int) -> None:
    assert part_bytes(size) == part
    assert -(-size // part) <= 9000
