"""Reading DDUF archives, good, odd and hostile ones."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import pytest

from dmr_adapters.package_source.dduf import dduf_metadata
from dmr_core.errors import InvalidRequestError, MalformedArtifactError

INDEX = b'{"_class_name": "FluxPipeline"}'


def archive(
    index: bytes | None = INDEX, *, compression: int = zipfile.ZIP_STORED, long: bool = False, comment: bytes = b""
) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in (("vae/weights.safetensors", b"w" * 500), ("model_index.json", index)):
            if content is not None:
                info = zipfile.ZipInfo(name)
                info.compress_type = compression
                with file.open(info, "w", force_zip64=long) as member:
                    member.write(content)
        file.comment = comment
    return buffer.getvalue()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "flux.dduf"


@pytest.mark.parametrize(
    "content",
    [archive(), archive(long=True), archive(comment=b"x" * 65535), archive(comment=b"PK\x05\x06" + bytes(40))],
    ids=["plain", "64 bits", "long comment", "comment like an end"],
)
def test_an_archive_names_its_pipeline(path: Path, content: bytes) -> None:
    path.write_bytes(content)

    assert dduf_metadata(path).raw == {"pipeline": "FluxPipeline"}


@pytest.mark.parametrize("index", [b"{}", b"[]", b'{"_class_name": 7}'])
def test_an_index_that_names_none_is_no_reason_to_refuse(path: Path, index: bytes) -> None:
    path.write_bytes(archive(index))

    assert dduf_metadata(path).raw == {}


def test_the_stub_of_the_reference_says_nothing(path: Path) -> None:
    path.write_bytes(b"PK")

    assert dduf_metadata(path).raw == {}


def _patched(content: bytes, magic: bytes, offset: int, layout: str, value: int) -> bytes:
    at = content.rindex(magic) + offset
    changed = bytearray(content)
    struct.pack_into(layout, changed, at, value)
    return bytes(changed)


END, ENTRY, LOCAL = b"PK\x05\x06", b"PK\x01\x02", b"PK\x03\x04"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "at byte 0: no directory of a zip archive"),
        (b"PX", "no directory of a zip archive"),
        (archive()[:-1], "no directory of a zip archive"),
        (archive(None), "it holds no model_index.json at its root"),
        (archive(b"{"), "model_index.json is not JSON"),
        (archive(b"[" * 100_000), "model_index.json is not JSON"),
        (archive(b'"' + b"x" * (1 << 20) + b'"'), "at most 1048576 are allowed"),
        (archive(compression=zipfile.ZIP_DEFLATED), "is compressed or encrypted: a DDUF may not be"),
        (_patched(archive(), ENTRY, 8, "<H", 1), "is compressed or encrypted"),
        (_patched(archive(), ENTRY, 42, "<I", 1 << 31), "lies outside the file: it was cut off"),
        (_patched(archive(), ENTRY, 0, "<I", 7), "an entry of its directory begins with"),
        (_patched(archive(), ENTRY, 28, "<H", 60000), "is longer than the directory"),
        (_patched(archive(), ENTRY, 24, "<I", 0xFFFFFFFF), "lacks its 64-bit numbers"),
        (_patched(archive(), END, 12, "<I", 1 << 30), "a directory of 1073741824 bytes, at most"),
        (_patched(archive(), END, 16, "<I", 1 << 30), "cannot be"),
        (_patched(archive(), END, 10, "<H", 3), "cannot be"),
        (_patched(archive(), LOCAL, 0, "<I", 7), "'model_index.json' begins with"),
        (_patched(archive(), LOCAL, 28, "<H", 60000), "reaches beyond the end of the file"),
    ],
)
def test_what_breaks_the_format_is_refused_with_its_place(path: Path, content: bytes, complaint: str) -> None:
    path.write_bytes(content)

    with pytest.raises(MalformedArtifactError, match=r"malformed DDUF file '.*flux\.dduf' at byte \d+: ") as raised:
        dduf_metadata(path)

    assert complaint in raised.value.message


def test_the_end_of_a_64_bit_directory_must_be_inside(path: Path) -> None:
    end = struct.pack("<4s4H2IH", END, 0, 0, 0, 0, 0, 0, 0)
    path.write_bytes(b"x" * 60 + struct.pack("<4sIQI", b"PK\x06\x07", 0, 1 << 60, 1) + end)
    with pytest.raises(MalformedArtifactError, match="lies outside the file"):
        dduf_metadata(path)

    path.write_bytes(b"x" * 60 + struct.pack("<4sIQI", b"PK\x06\x07", 0, 0, 1) + end)
    with pytest.raises(MalformedArtifactError, match="begins with b'xxxx'"):
        dduf_metadata(path)


def test_a_file_cut_off_anywhere_is_refused(path: Path) -> None:
    whole = archive(long=True)
    for length in (length for length in range(len(whole)) if length != 2):
        path.write_bytes(whole[:length])
        with pytest.raises(MalformedArtifactError):
            dduf_metadata(path)


def test_a_missing_file_is_no_malformed_file(path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="cannot read"):
        dduf_metadata(path)
