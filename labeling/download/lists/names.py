"""Names of shards, and keys of the rows of a list.

They are apart from the planner, which imports DuckDB: processes of the download import them, and DuckDB would report
leaks on standard error whenever one of those processes ends.
"""

import hashlib


def shard_name(number: int) -> str:
    """Return the name of a shard: shard-00000, shard-00001, ..."""
    return f"shard-{number:05d}"


def shard_number(name: str) -> int:
    """Return the number of a shard, the inverse of `shard_name`."""
    return int(name.removeprefix("shard-"))


def key_of(url: str, occurrence: int) -> bytes:
    """Return the 128-bit key of a row: of its URL, and the number of earlier rows with that URL."""
    return hashlib.sha256(f"{occurrence} {url}".encode()).digest()[:16]
