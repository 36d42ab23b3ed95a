"""Text of rows by columns: the bytes that `repr` of the rows would have, on which the stamps of `urls/` depend."""

import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labeling.download.lists.row_text import list_texts, row_texts
from labeling.sdd.arrow import schema_of
from labeling.sdd.schema import ListedUrl

FLOATS = [
    0.0,
    -0.0,
    1.0,
    0.1,
    -2.5,
    1e-4,
    9.999e-5,
    1e-5,
    1e-45,
    1e9,
    1e10,
    123456.789,
    1e14,
    1e15,
    1e16,
    3.4e38,
    math.inf,
]
TEXTS = [
    "",
    "plain",
    "it's",
    '"quoted"',
    "both ' and \"",
    "back\\slash",
    "tab\t, line\n, \r, \x00, \x7f",
    "café",
    "日本 🐕",
    "\u200b\xa0\xad",
    "\ud7ff\U0010ffff",
]
INTEGERS = [0, 1, -1, 2**31 - 1, -(2**31)]


def rows_of(count: int) -> list[ListedUrl]:
    """Rows with each awkward value in each column, and nulls where the column may have them."""
    floats = [*map(float, np.array(FLOATS, np.float32)), None]
    texts, integers = [*TEXTS, None], [*INTEGERS, None]
    keys = [hashlib.sha256(str(n).encode()).digest()[:16] for n in range(count)]
    keys[:4] = [b"'" * 16, b'"' * 16, b"'\"" * 8, b"\\\n\t\r\x00\x7f\xff ~!" + bytes(6)]
    return [
        ListedUrl(
            key=keys[n],
            list_row=n * (2**62 // count),
            url=TEXTS[n % len(TEXTS)],
            alt_text=texts[n % len(texts)],
            similarity=floats[n % len(floats)],
            laion_hash=[-(2**63), 2**63 - 1, None][n % 3],
            punsafe=floats[(n + 3) % len(floats)],
            pwatermark=None,
            aesthetic_score=floats[-n % len(floats)],
            listed_width_px=integers[n % len(integers)],
            listed_height_px=integers[-n % len(integers)],
        )
        for n in range(count)
    ]


def table_of(rows: Sequence[ListedUrl]) -> pa.Table:
    columns = {field.name: [getattr(row, field.name) for row in rows] for field in fields(ListedUrl)}
    return pa.table(columns, schema=schema_of(ListedUrl))


def test_texts_are_those_of_the_rows() -> None:
    rows = rows_of(500)
    assert row_texts(table_of(rows)).to_pylist() == list(map(repr, rows))


@pytest.mark.parametrize(("count", "rows_each"), [(0, 4), (1, 4), (8, 4), (9, 4), (9, 100)])
def test_texts_of_lists_join_to_the_text_of_their_rows(count: int, rows_each: int) -> None:
    """Of a table in several chunks, which does not begin where its columns do."""
    rows = rows_of(20)
    table = pa.concat_tables([table_of(rows[:7]), table_of(rows[7:])]).slice(5, count)
    lists = [rows[5 : 5 + count][start : start + rows_each] for start in range(0, count, rows_each)]
    assert [f"[{bytes(text).decode()}]" for text in list_texts(table, rows_each)] == list(map(repr, lists))


@given(
    st.integers(0, 2**32 - 1), st.text(st.characters(codec="utf-8"), max_size=6), st.binary(min_size=16, max_size=16)
)
def test_any_number_text_and_key(bits: int, text: str, key: bytes) -> None:
    (number,) = struct.unpack("<f", struct.pack("<I", bits))
    (row,) = rows_of(5)[4:]
    score = None if math.isnan(number) else number
    made = ListedUrl(
        **{f.name: getattr(row, f.name) for f in fields(row)} | {"key": key, "alt_text": text, "similarity": score}
    )
    assert row_texts(table_of([made])).to_pylist() == [repr(made)]
