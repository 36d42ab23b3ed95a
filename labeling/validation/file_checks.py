"""Checks of one file by itself. The name of a function is the name of the check."""

from collections.abc import Callable, Iterator
from itertools import pairwise

from infra.storage import open_binary
from labeling.errors import ShardCorrupt
from labeling.sdd.arrow import optional_names
from labeling.sdd.layers import FOLDERS, HAVE_OUTCOMES, OUTCOMES
from labeling.sdd.schema import Layer, State
from labeling.sdd.seal import is_intact
from labeling.sdd.shards import OUTCOME, ROWS_PER_GROUP
from labeling.validation.faults import Fault
from labeling.validation.layer_file import LayerFile

FileCheck = Callable[[LayerFile], Iterator[Fault]]
_DECIDING = tuple(str(layer) for layer in Layer if layer in OUTCOMES or layer is Layer.SDD)
"""Layers whose stages decide on images, as the ledger names them."""


def readable(file: LayerFile) -> Iterator[Fault]:
    """Check that all columns of a file can be decoded; pixels are read by `sha256_of_image`."""
    try:
        _ = file.records
    except ShardCorrupt as error:
        yield file.fault(str(error))


def schema(file: LayerFile) -> Iterator[Fault]:
    """Check that a file has the columns of its layer, with their types, in their order."""
    expected = file.expected_schema()
    if not file.is_present_version:  # it lacks columns that may be None
        known = {field.name for field in expected} - set(optional_names(FOLDERS[file.layer]))
        if missing := known - set(file.schema.names):
            yield file.fault(f"lacks the columns {', '.join(sorted(missing))}")
    elif file.schema != expected:
        pairs = zip(file.schema, expected, strict=False)
        differing = (f"{theirs}, not {ours}" for theirs, ours in pairs if theirs != ours)
        yield file.fault(f"has other columns: {next(differing, ', '.join(file.schema.names))}")


def row_groups(file: LayerFile) -> Iterator[Fault]:
    """Check that each row group has 64 rows, except the last, and except in urls/, whose files are read whole."""
    if file.layer == Layer.URLS:
        return
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    for group, rows in enumerate(sizes):
        if rows != ROWS_PER_GROUP and not (group == len(sizes) - 1 and 0 < rows < ROWS_PER_GROUP):
            yield file.fault(f"row group {group} of {len(sizes)} has {rows} rows, not {ROWS_PER_GROUP}")


def checksum(file: LayerFile) -> Iterator[Fault]:
    """Check that a file has the SHA-256 in its footer; files of early versions have none."""
    if file.stamp.size is not None:
        with open_binary(file.store.path(file.layer, file.shard)) as content:
            if not is_intact(content):
                yield file.fault("has changed since it was written (SHA-256)")


def row_order(file: LayerFile) -> Iterator[Fault]:
    """Check that keys rise within a file, so none is there twice."""
    keys = [record["key"] for record in file.records]
    for row, (before, key) in enumerate(pairwise(keys), start=1):
        if key == before:
            yield file.fault("has the key of the row before", row, "key")
        elif key < before:
            yield file.fault(f"comes after {before.hex()}", row, "key")


def counts(file: LayerFile) -> Iterator[Fault]:
    """Check that a footer has the number of rows of each state."""
    actual: dict[str, int] = {}
    for record in file.records:
        state = record.get("state", State.KEPT)
        actual[state] = actual.get(state, 0) + 1
    stored = {state: rows for state, rows in file.stamp.counts.items() if rows}
    if actual != stored:
        yield file.fault(f"has the rows {_text(actual)}, but its footer counts {_text(stored)}")


def states(file: LayerFile) -> Iterator[Fault]:
    """Check that a row has a known state, and a reason unless it is kept."""
    for row, record in enumerate(file.records) if "state" in file.schema.names else ():
        state, reason = record["state"], record["reason"]
        if state not in set(State):
            yield file.fault(f"{state!r} is no state", row, "state")
        elif state == State.KEPT and reason:
            yield file.fault(f"is {reason!r}, though the row is kept", row, "reason")
        elif state != State.KEPT and not reason:
            yield file.fault(f"is empty, though the row is {state}", row, "reason")
        if file.layer == Layer.LEDGER and record["stage"] not in _DECIDING:
            yield file.fault(f"{record['stage']!r} is no layer that decides", row, "stage")


def payload(file: LayerFile) -> Iterator[Fault]:
    """Check that a kept row has a value in every column that its layer requires."""
    required = set(file.schema.names) - set(optional_names(FOLDERS[file.layer])) - set(OUTCOME)
    for row, record in enumerate(file.records) if file.layer in HAVE_OUTCOMES else ():
        for column in sorted(required & record.keys()) if file.is_kept(record) else ():
            if record[column] is None:
                yield file.fault("is null, though the row is kept", row, column)


def _text(rows_by_state: dict[str, int]) -> str:
    return ", ".join(f"{rows} {state}" for state, rows in sorted(rows_by_state.items())) or "none"


PREREQUISITES: tuple[FileCheck, ...] = (readable, schema)
"""Checks without which no other check of the file makes sense."""
FILE_CHECKS: tuple[FileCheck, ...] = (row_groups, row_order, counts, states, payload)
"""Checks that read the rows without pixels."""
BYTE_CHECKS: tuple[FileCheck, ...] = (checksum,)
"""Checks that read every byte."""
