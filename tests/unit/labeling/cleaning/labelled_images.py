"""Labelled shards whose images have chosen hashes, sizes and probabilities."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from labeling.finish import FinishJob
from labeling.sdd.schema import Candidate, Caption, Entities, Image, LedgerRow, Nouns
from labeling.sdd.shards import ShardStore
from tests.factories import DOG, downloaded, image

LAYERS = ("images", "captions", "nouns", "entities")
CAPTION = "a dog and a cat"


def hashed(number: int, perceptual_hash: int = 0, encoded: bytes | None = None, **columns: object) -> Image:
    """An image with this hash, as an unsigned number."""
    signed = int.from_bytes(perceptual_hash.to_bytes(8, "big"), "big", signed=True)
    encoded = f"image {number}".encode() if encoded is None else encoded
    return replace(image(number, encoded), perceptual_hash=signed, **columns)


def write_labelled(
    root: Path, shards: Sequence[Sequence[Image]], candidates: Mapping[bytes, Sequence[Candidate]] | None = None
) -> list[str]:
    """Write all layers before sdd/, with a dog on each image unless told otherwise; returns the shards."""
    names = [f"shard-{number:05}" for number in range(len(shards))]
    for name, images in zip(names, shards, strict=True):
        store = downloaded(root, images, name)
        found = {each.key: tuple((candidates or {}).get(each.key, (DOG,))) for each in images}
        store.write_outcomes("captions", name, [Caption(key=k, caption=CAPTION) for k in found], Caption, "captions")
        store.write_outcomes("nouns", name, [Nouns(key=k, nouns=(), removed_nouns=()) for k in found], Nouns, "nouns")
        rows = [Entities(key=k, candidates=each) for k, each in found.items()]
        store.write_outcomes("entities", name, rows, Entities, "entities")
    return names


def verdicts(job: FinishJob, shards: Sequence[str]) -> dict[int, tuple[str, str]]:
    """Finish the shards, and return the reason and detail of each image's verdict by its number."""
    for shard in shards:
        report = job.make(shard)
        assert report.error is None, report.error
    store = ShardStore(job.root)
    rows = [row for shard in shards for row in store.read(LedgerRow, ("ledger",), shard)]
    return {int.from_bytes(row.key, "big"): (row.reason, row.detail) for row in rows}
