"""Checks of confirmations/, embeddings/ and similar/. The name of a function is the name of the check."""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress

import numpy as np

from labeling.cleaning.embedding import STORED
from labeling.errors import ShardCorrupt
from labeling.sdd.arrow import Record
from labeling.sdd.schema import CONFIRMATIONS, EMBEDDINGS, SIMILAR, Layer
from labeling.sdd.shards import FIRST
from labeling.validation.contents import ShardContents
from labeling.validation.faults import Fault
from labeling.validation.layer_file import LayerFile

OptionalCheck = Callable[[ShardContents], Iterator[Fault]]
_LOWEST = {"confirmed_iou": 0.0, "confirmed_score": 0.0, "label_quality": 0.0, "mask_quality": -sys.float_info.max}
"""Lowest value of each number of a confirmation; a mask quality may be a predicted IoU of the segmenter below 0."""
_COMPARED = ("confirmed_iou", "label_quality", "mask_quality")
"""Numbers that a confirmation has exactly if its candidate has a mask."""
_LENGTH_TOLERANCE = 0.01
"""Largest distance of an embedding's length from 1; half precision takes less than .001 of it."""
_COSINE_TOLERANCE = 1e-4
"""Largest excess of a cosine over 1 by rounding in single precision."""


def confirmations_of_candidates(shard: ShardContents) -> Iterator[Fault]:
    """Check that confirmations/ has one for each candidate of entities/, with numbers exactly if it has a mask."""
    entities = shard.by_key.get(Layer.ENTITIES, {})
    for file, row, record in _kept_rows(shard, CONFIRMATIONS):
        candidates = entities.get(record["key"], {}).get("candidates")
        if candidates is None:
            continue
        confirmations = record["confirmations"] or ()
        if len(confirmations) != len(candidates):
            message = f"has {len(confirmations)} items, but the image {len(candidates)} candidates in entities/"
            yield file.fault(message, row, "confirmations")
            continue
        for index, (candidate, each) in enumerate(zip(candidates, confirmations, strict=True)):
            has_mask = candidate["segment"] is not None
            for column in _COMPARED:
                if (each[column] is not None) != has_mask:
                    words = "is missing, though the candidate has a" if has_mask else "is there, though it has no"
                    yield file.fault(f"{words} mask", row, f"confirmations[{index}].{column}")


def numbers_of_confirmations(shard: ShardContents) -> Iterator[Fault]:
    """Check that IoU, score and label quality of a confirmation are 0 to 1, and its mask quality is at most 1."""
    for file, row, record in _kept_rows(shard, CONFIRMATIONS):
        for index, each in enumerate(record["confirmations"] or ()):
            for column, lowest in _LOWEST.items():
                if each[column] is not None and not lowest <= each[column] <= 1:
                    limits = "between 0 and 1" if lowest == 0 else "1 or less"
                    yield file.fault(f"{each[column]:g} is not {limits}", row, f"confirmations[{index}].{column}")


def width_of_embeddings(shard: ShardContents) -> Iterator[Fault]:
    """Check that all embeddings of a dataset have as many numbers as the first one."""
    first = _first_embedding(shard.files[EMBEDDINGS]) if EMBEDDINGS in shard.files else None
    for file, row, record in _kept_rows(shard, EMBEDDINGS):
        size = len(record["embedding"] or b"")
        if first is not None and size != len(first):
            yield file.fault(f"has {size} bytes, but the first embedding has {len(first)}", row, "embedding")


def unit_embeddings(shard: ShardContents) -> Iterator[Fault]:
    """Check that the numbers of an embedding are finite, and its length is 1."""
    for file, row, record in _kept_rows(shard, EMBEDDINGS):
        content = record["embedding"] or b""
        whole = content[: len(content) - len(content) % STORED.itemsize]
        length = float(np.linalg.norm(np.frombuffer(whole, STORED).astype(np.float64)))
        if not math.isfinite(length):
            yield file.fault("has numbers that are not finite", row, "embedding")
        elif abs(length - 1) > _LENGTH_TOLERANCE:
            yield file.fault(f"has length {length:g}, not 1", row, "embedding")


def similar_images(shard: ShardContents) -> Iterator[Fault]:
    """Check that an image of similar/ has an embedding, an original in no later shard, and a cosine of -1 to 1."""
    embedded = shard.files.get(EMBEDDINGS)
    keys = {record["key"] for _, _, record in _kept_rows(shard, EMBEDDINGS)}
    for file, row, record in _kept_rows(shard, SIMILAR):
        if embedded is not None and record["key"] not in keys:
            yield file.fault(f"has no embedding in {EMBEDDINGS}/", row, "key")
        if record["original"] == record["key"]:
            yield file.fault("is the image itself", row, "original")
        if (len(record["shard"]), record["shard"]) > (len(file.shard), file.shard):
            yield file.fault(f"{record['shard']!r} comes after {file.shard}", row, "shard")
        if not abs(record["cosine"]) <= 1 + _COSINE_TOLERANCE:
            yield file.fault(f"{record['cosine']:g} is not between -1 and 1", row, "cosine")


def _kept_rows(shard: ShardContents, folder: str) -> Iterator[tuple[LayerFile, int, Record]]:
    """Yield the kept rows of a folder's file with their numbers, if the shard has one."""
    if (file := shard.files.get(folder)) is not None:
        yield from ((file, row, record) for row, record in enumerate(file.records) if file.is_kept(record))


def _first_embedding(file: LayerFile) -> bytes | None:
    """Return the first embedding of the dataset, else that of the file; None if neither has one."""
    found: list[bytes | None] = []
    # `readable` or `complete_files` reports a damaged first file.
    with suppress(ShardCorrupt, FileNotFoundError), file.store.open_file(EMBEDDINGS, FIRST) as first:
        if first.num_row_groups and "embedding" in first.schema_arrow.names:
            found = first.read_row_group(0, columns=["embedding"])["embedding"].to_pylist()
    return next(filter(None, (*found, *(record["embedding"] for record in file.records))), None)


OPTIONAL_CHECKS: tuple[OptionalCheck, ...] = (
    confirmations_of_candidates,
    numbers_of_confirmations,
    width_of_embeddings,
    unit_embeddings,
    similar_images,
)
"""Checks of the optional folders, whose files are made only if a setting asks for them."""
