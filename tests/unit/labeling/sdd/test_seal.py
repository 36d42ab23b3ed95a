"""A file that was sealed tells every change of a bit."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labeling.sdd.seal import KEY, PLACEHOLDER, is_intact, seal, sealed_size


@pytest.fixture(scope="module")
def sealed() -> bytes:
    file = io.BytesIO()
    table = pa.table({"word": ["cat", "dog", "seal", PLACEHOLDER]})
    with pq.ParquetWriter(file, table.schema, write_page_index=True) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"stamp": "1", KEY: PLACEHOLDER, "counts": "{}"})
    seal(file)
    return file.getvalue()


def test_a_sealed_file_is_an_ordinary_parquet_file(sealed):
    file = pq.ParquetFile(io.BytesIO(sealed))
    assert file.read()["word"].to_pylist()[:2] == ["cat", "dog"]
    assert sealed_size(file.metadata.metadata[KEY.encode()].decode()) == len(sealed)
    assert is_intact(io.BytesIO(sealed))


def test_every_flipped_byte_is_seen(sealed):
    for at in range(len(sealed)):
        flipped = bytearray(sealed)
        flipped[at] ^= 0x10
        assert not is_intact(io.BytesIO(flipped)), at


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda whole: whole[:-1], id="cut"),
        pytest.param(lambda whole: whole + b"\0", id="longer"),
        pytest.param(lambda whole: whole[:50] + whole[60:], id="a piece taken out"),
        pytest.param(lambda whole: b"", id="empty"),
        pytest.param(lambda whole: b"PAR1", id="a few bytes"),
    ],
)
def test_every_other_length_is_seen(sealed, change):
    assert not is_intact(io.BytesIO(change(sealed)))
