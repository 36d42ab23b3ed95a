"""Files of keys, which name a selection of images to other commands.

TXT       one key a line, in hexadecimal digits
Parquet   a column `key` of 16 bytes, and the shard of each image
"""

import io
from collections.abc import Iterable
from enum import StrEnum

import pyarrow as pa
import pyarrow.parquet as pq

from labeling.explorer.browse import Place

_SCHEMA = pa.schema([pa.field("key", pa.binary(16), nullable=False), pa.field("shard", pa.string(), nullable=False)])


class KeyFormat(StrEnum):
    """Format of a file of keys."""

    TXT = "txt"
    PARQUET = "parquet"


def key_file(places: Iterable[Place], format_: KeyFormat) -> bytes:
    """Return a file with the keys of these images, in their order."""
    if format_ is KeyFormat.TXT:
        return "".join(f"{place.key.hex()}\n" for place in places).encode()
    listed = list(places)
    columns = [pa.array([place.key for place in listed], pa.binary(16)), pa.array([place.shard for place in listed])]
    file = io.BytesIO()
    pq.write_table(pa.table(columns, schema=_SCHEMA), file)
    return file.getvalue()
