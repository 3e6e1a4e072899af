from __future__ import annotations

import contextlib
import io
import stat
import struct
import zipfile

import numpy as np
import pytest

from dreambooth_job.data import archive
from dreambooth_job.data.archive import unpack
from dreambooth_job.errors import ImagesUnusable


def zipped(*entries: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as target:
        for name, data in entries:
            target.writestr(name, data)
    return buffer.getvalue()


@pytest.fixture
def unpacked(save, tmp_path):
    return lambda data: unpack(save(data, "set.zip"), tmp_path / "out", "set.zip")


def names(result) -> list[str]:
    return [name for name, _ in result.files]


def test_pictures_and_captions_come_out_whole_under_names_of_our_own(unpacked, tmp_path):
    result = unpacked(zipped(("a/b.jpg", b"one"), ("a/b.txt", b"two"), ("a/", b"")))
    assert [(name, path.read_bytes()) for name, path in result.files] == [("a/b.jpg", b"one"), ("a/b.txt", b"two")]
    assert {path.name for _, path in result.files} == {"0", "1"}
    assert not result.ignored


def test_junk_and_other_files_are_ignored_and_counted(unpacked):
    junk = ["__MACOSX/._a.jpg", ".DS_Store", "Thumbs.db", "desktop.ini", "@eaDir/x.jpg", "__MACOSX\\b.jpg"]
    result = unpacked(zipped(("a.jpg", b"1"), *((name, b"") for name in junk), ("b.mov", b""), ("inner.zip", b"")))
    assert names(result) == ["a.jpg"]
    assert result.ignored == {"hidden or system file": 6, ".mov": 1, "zip inside a zip": 1}


def of_type(name: str, kind: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = (kind | 0o777) << 16
    return info


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO])
def test_links_and_devices_are_not_followed(unpacked, kind):
    result = unpacked(zipped((of_type("a.jpg", kind), b"/etc/passwd"), (of_type("b.jpg", stat.S_IFREG), b"1")))
    assert names(result) == ["b.jpg"]
    assert result.ignored == {"link or device in a zip": 1}


@pytest.mark.parametrize(
    "name", ["/etc/x.jpg", "../x.jpg", "a/../../b.jpg", "C:\\x.jpg", "..\\x.jpg", "\\x.jpg", "a.jpg\0.sh"]
)
def test_names_that_lead_elsewhere_are_ignored(unpacked, tmp_path, name):
    before = set(tmp_path.parent.rglob("*"))
    info = zipfile.ZipInfo("placeholder")
    info.filename = name
    result = unpacked(zipped((info, b"1"), ("ok.jpg", b"2")))
    assert names(result) == ["ok.jpg"]
    assert result.ignored == {"unsafe name in a zip": 1}
    assert set(tmp_path.parent.rglob("*")) - before == {tmp_path / "set.zip", tmp_path / "out", tmp_path / "out" / "0"}


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_equal_names_stay_two_files(unpacked):
    result = unpacked(zipped(("a.jpg", b"1"), ("a.jpg", b"2")))
    assert [path.read_bytes() for _, path in result.files] == [b"1", b"2"]


def patched(data: bytes, signature: bytes, offset: int, value: bytes) -> bytes:
    at = data.index(signature) + offset
    return data[:at] + value + data[at + len(value) :]


def overlapping() -> bytes:
    """Two directory entries that share one local file, as in the best compression bombs."""
    data = zipped(("a.jpg", b"1" * 100), ("b.jpg", b"2" * 100))
    second = data.rindex(b"PK\1\2")
    return data[: second + 42] + struct.pack("<I", 0) + data[second + 46 :]


BOMB = zipped(("a.png", bytes(4 << 20)), method=zipfile.ZIP_DEFLATED)
PLAIN = zipped(("a.jpg", b"12345" * 100), ("b.jpg", b"6"))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "not a readable zip"), (b"not a zip", "not a readable zip"),
        (PLAIN[: len(PLAIN) // 2], "not a readable zip"),
        (PLAIN[:-1], "not a readable zip"), (patched(PLAIN, b"12345", 0, b"x"), "not a readable zip"),
        (patched(PLAIN, b"PK\1\2", 24, struct.pack("<I", 9999)), "not a readable zip"),
        (patched(PLAIN, b"PK\1\2", 8, b"\1"), "is encrypted"), (patched(PLAIN, b"PK\1\2", 10, b"\x61"), "compression"),
        (BOMB, r"a\.png in set\.zip unpacks to more than 100 times"), (overlapping(), "overlap"),
        (patched(PLAIN, b"PK\5\6", 12, struct.pack("<I", 99 << 20)), "too many entries"),
        (patched(PLAIN, b"PK\1\2", 20, struct.pack("<II", 80 << 20, 80 << 20)), r"a\.jpg in set\.zip is 80 MB"),
    ],
    ids=["empty", "text", "half", "one byte short", "flipped byte", "lying size", "encrypted", "compression", "bomb",
         "overlap", "million entries", "large picture"],
)  # fmt: skip
def test_a_damaged_or_hostile_zip_is_refused_in_words(unpacked, data, problem):
    with pytest.raises(ImagesUnusable, match=problem):
        unpacked(data)


def test_more_entries_than_the_limit_are_refused(unpacked, monkeypatch):
    monkeypatch.setattr(archive, "MAX_ENTRIES", 2)
    with pytest.raises(ImagesUnusable, match="holds 3 entries; at most 2"):
        unpacked(zipped(("a.jpg", b""), ("b.jpg", b""), ("c.jpg", b"")))


def test_more_bytes_than_the_limit_are_refused(unpacked, monkeypatch):
    monkeypatch.setattr(archive, "MAX_TOTAL_BYTES", 1 << 20)
    with pytest.raises(ImagesUnusable, match=r"unpacks to 2 MB; at most 1 MB"):
        unpacked(zipped(("a.bin", bytes(2 << 20))))


def test_a_full_disk_is_not_called_a_damaged_zip(unpacked, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(OSError, match="No space"):
        unpacked(PLAIN)


def test_flipped_bytes_end_in_files_or_in_words(save, tmp_path):
    rng = np.random.default_rng(3)
    for i in range(300):
        damaged = bytearray(PLAIN)
        for at in rng.integers(0, len(PLAIN), 3):
            damaged[at] = int(rng.integers(0, 256))
        with contextlib.suppress(ImagesUnusable):  # any other error fails
            assert len(unpack(save(bytes(damaged), "x.zip"), tmp_path / str(i), "x.zip").files) <= 2
