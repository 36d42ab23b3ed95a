"""Text of the rows of a list, by columns: what `repr` returns for each `ListedUrl`, byte for byte.

The stamps of `urls/` are hashes of this text, so another text would make every existing dataset stale. A `ListedUrl`
for each row would cost several times as much.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from labeling.sdd.schema import ListedUrl

_TEXT = pa.large_string()  # the offsets of `string` end at 2 GiB
_FIXED_POINT = (1e-4, 1e10)
"""Range in which Arrow and Python write the same digits, neither with an exponent, unless the number is integral."""
_QUOTE = ord("'")
_BYTE_WIDTHS = np.array([len(repr(bytes([byte]))) - len("b''") for byte in range(256)])
"""Characters of each byte in `repr` of bytes without a single quote."""
_IS_ESCAPED = np.array([not (chr(byte).isprintable() and byte < 0x80) or chr(byte) in "'\\" for byte in range(256)])
"""Whether text with this byte in UTF-8 may differ from its `repr` without quotes."""


def row_texts(table: pa.Table) -> pa.ChunkedArray:
    """Return `repr` of the `ListedUrl` of each row.

    Args:
        table: rows with the columns of `urls/`.
    """
    labels = [f", {name}=" for name in table.column_names]
    labels[0] = f"{ListedUrl.__name__}({table.column_names[0]}="
    columns = [_texts(column.combine_chunks()) for column in table.columns]
    pieces = [
        piece for label, column in zip(labels, columns, strict=True) for piece in (pa.scalar(label, _TEXT), column)
    ]
    end, separator = pa.scalar(")", _TEXT), pa.scalar("", _TEXT)
    return pc.binary_join_element_wise(*pieces, end, separator, null_handling="replace", null_replacement="None")


def list_texts(table: pa.Table, rows: int) -> Iterator[memoryview]:
    """Yield `repr` of the list of the first `rows` rows, of the next, and so on, without its brackets.

    Args:
        table: rows with the columns of `urls/`.
        rows: rows of each list; the last may be shorter.
    """
    offsets = [*range(0, table.num_rows, rows), table.num_rows]
    lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), row_texts(table))
    for joined in pc.binary_join(lists, pa.scalar(", ", _TEXT)):
        yield memoryview(joined.as_buffer())


def _texts(column: pa.Array) -> pa.Array:
    """Return `repr` of each value; null for a null."""
    if pa.types.is_integer(column.type):
        return column.cast(_TEXT)
    if pa.types.is_floating(column.type):
        return _texts_of_floats(column.cast(pa.float64()))
    if pa.types.is_fixed_size_binary(column.type):
        return _texts_of_keys(column)
    return _texts_of_text(column.cast(_TEXT))


def _texts_of_floats(doubles: pa.Array) -> pa.Array:
    numbers = doubles.to_numpy(zero_copy_only=False)  # NaN for a null
    low, high = _FIXED_POINT
    is_fixed_point = (abs(numbers) >= low) & (abs(numbers) < high) & (numbers != np.floor(numbers))
    return _with_repr(doubles.cast(_TEXT), doubles, ~(is_fixed_point | np.isnan(numbers)))


def _texts_of_keys(keys: pa.Array) -> pa.Array:
    size = keys.type.byte_width
    whole = keys.buffers()[1][keys.offset * size : (keys.offset + len(keys)) * size].to_pybytes()
    codes = np.frombuffer(whole, np.uint8).reshape(len(keys), size)
    escaped = repr(whole.replace(b"'", b"!"))[2:-1]  # with a quote, `repr` of all keys and of one may differ
    texts = _join("b'", _cut(escaped.encode(), _BYTE_WIDTHS[codes].sum(axis=1)), "'")
    return _with_repr(texts, keys, (codes == _QUOTE).any(axis=1))


def _texts_of_text(texts: pa.Array) -> pa.Array:
    if not len(texts):
        return texts
    offsets = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]
    codes = np.frombuffer(texts.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]]
    escaped = np.flatnonzero(_IS_ESCAPED[codes]) + offsets[0]
    is_escaped = np.zeros(len(texts), np.bool_)
    is_escaped[np.searchsorted(offsets, escaped, side="right") - 1] = True
    return _with_repr(_join("'", texts, "'"), texts, is_escaped)


def _with_repr(texts: pa.Array, values: pa.Array, mask: npt.NDArray[np.bool_]) -> pa.Array:
    """Return the texts, with `repr` of the values where the mask is set."""
    if not mask.any():
        return texts
    replacements = list(map(repr, values.filter(pa.array(mask)).to_pylist()))
    return pc.replace_with_mask(texts, pa.array(mask), pa.array(replacements, _TEXT))


def _join(before: str, texts: pa.Array, after: str) -> pa.Array:
    return pc.binary_join_element_wise(pa.scalar(before, _TEXT), texts, pa.scalar(after, _TEXT), pa.scalar("", _TEXT))


def _cut(text: bytes, widths: npt.NDArray[np.int64]) -> pa.Array:
    """Return the pieces of a text that have these widths in bytes."""
    offsets = np.concatenate([[0], widths.cumsum()])
    return pa.LargeStringArray.from_buffers(len(widths), pa.py_buffer(offsets), pa.py_buffer(text))
