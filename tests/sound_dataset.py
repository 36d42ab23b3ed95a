"""A small dataset that breaks no invariant of the format, planned from a list, and edits that break one."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from labeling.cleaning.embedding import STORED, EmbedInput
from labeling.cleaning.label_errors import confirm
from labeling.config import LabelingConfig, RulesConfig
from labeling.download.lists.url_list import plan_urls
from labeling.download.screening.imaging import difference_hash
from labeling.finish import FinishJob
from labeling.sdd.arrow import Record
from labeling.sdd.schema import (
    CONFIRMATIONS,
    EMBEDDINGS,
    SIMILAR,
    Box,
    Candidate,
    Caption,
    Confirmations,
    Detection,
    Detections,
    Embedding,
    Entities,
    Image,
    Layer,
    ListedUrl,
    Noun,
    Nouns,
    OverlookedBox,
    SimilarImage,
    State,
    Verdict,
)
from labeling.sdd.seal import KEY, PLACEHOLDER, seal
from labeling.sdd.shards import FIRST, Refused, ShardStore
from tests.factories import CAT, DOG, candidate, image

ROWS_PER_SHARD = 8
FOUND: Mapping[int, tuple[Candidate, ...]] = {
    0: (DOG,),
    1: (DOG, CAT),
    2: (candidate((0, 0, 20, 20), fill=0.5, size=(64, 48)),),
    8: (CAT,),
    9: (DOG, CAT),
}
"""Candidates of the images that reach the rules, by the last number of their URL. The rules drop the third image."""
REFUSED: Mapping[int, tuple[Layer, State, str]] = {
    3: (Layer.IMAGES, State.NOT_DOWNLOADED, "http_404"),
    4: (Layer.IMAGES, State.DROPPED, "small_image"),
    5: (Layer.CAPTIONS, State.FAILED, "ValueError"),
    6: (Layer.NOUNS, State.DROPPED, "no_noun"),
    7: (Layer.ENTITIES, State.QUARANTINED, "crash"),
    10: (Layer.IMAGES, State.DROPPED, "duplicate_url"),
}
"""Layer that refuses an image, with its verdict, by the last number of its URL."""
LAYERS = (Layer.IMAGES, Layer.CAPTIONS, Layer.NOUNS, Layer.DETECTIONS, Layer.ENTITIES)


def url_of(number: int) -> str:
    """Return a URL of the list, of host a or b; the last one is that of an earlier row."""
    return f"https://{'b' if number in (8, 9) else 'a'}.example/{1 if number == 10 else number}.jpg"


def sound_dataset(root: Path) -> Path:
    """Make the dataset: shards of 8 and of 3 rows."""
    root.mkdir(parents=True, exist_ok=True)
    urls = root / "list.csv"
    urls.write_text("URL,TEXT\n" + "".join(f"{url_of(n)},text {n}\n" for n in sorted({*FOUND, *REFUSED})))
    config = LabelingConfig(root=str(root), urls=str(urls), images_per_shard=ROWS_PER_SHARD)
    store = ShardStore(str(root))
    for shard in plan_urls(config):
        listed = list(store.read(ListedUrl, (Layer.URLS,), shard))
        for layer, row_of in zip(LAYERS, (_image, _caption, _nouns, _detections, _entities), strict=True):
            rows = [_outcome(row, layer, row_of) for row in listed]
            store.write_outcomes(layer, shard, rows, ROW_CLASSES[layer], f"{layer} stamp")
            listed = [row for row in listed if REFUSED.get(row.list_row, ("",))[0] != layer]
        assert FinishJob(root=str(root), rules=RulesConfig(), layers=LAYERS).make(shard).error is None
    return root


def add_optional_folders(root: Path) -> None:
    """Add what a second detector and a search for similar images leave: one overlooked box an image, and one pair."""
    store = ShardStore(str(root))
    box = Box(x0=0, y0=0, x1=20, y1=20)
    overlooked = (OverlookedBox(label="cat", score=0.5, box=box),)
    found = [Detection(label="dog", span_start=2, span_end=5, score=0.9, box=box)]
    for shard in store.shards(Layer.URLS):
        confirmed = [
            Confirmations(
                key=row.key, confirmations=tuple(confirm(each, found) for each in row.candidates), overlooked=overlooked
            )
            for row in store.read(Entities, (Layer.ENTITIES,), shard)
        ]
        store.write_outcomes(CONFIRMATIONS, shard, confirmed, Confirmations, "confirmations stamp")
        keys = [row.key for row in store.read(EmbedInput, (Layer.IMAGES,), shard)]
        embedding = np.array([1, 0], STORED).tobytes()
        embeddings = [Embedding(key=key, embedding=embedding) for key in keys]
        store.write_outcomes(EMBEDDINGS, shard, embeddings, Embedding, "embeddings stamp")
        pair = [SimilarImage(key=keys[1], original=keys[0], shard=shard, cosine=1.0)] if shard == FIRST else []
        store.write(SIMILAR, shard, pair, SimilarImage, "similar stamp")


ROW_CLASSES: Mapping[Layer, type] = dict(zip(LAYERS, (Image, Caption, Nouns, Detections, Entities), strict=True))


def _outcome(row: ListedUrl, layer: Layer, row_of: Callable[[ListedUrl], Any]) -> Any:
    at, state, reason = REFUSED.get(row.list_row, ("", "", ""))
    if at == layer:
        return Refused(key=row.key, verdict=Verdict(state=state, reason=reason, detail=""))
    return row_of(row)


def _image(row: ListedUrl) -> Image:
    made = image(row.list_row, url=row.url)
    return replace(
        made, key=row.key, alt_text=row.alt_text, aesthetic_score=None, perceptual_hash=difference_hash(made.image)
    )


def _caption(row: ListedUrl) -> Caption:
    return Caption(key=row.key, caption=f"a dog and a cat {row.list_row}")


def _nouns(row: ListedUrl) -> Nouns:
    nouns = (Noun(label="dog", span_start=2, span_end=5), Noun(label="cat", span_start=12, span_end=15))
    return Nouns(key=row.key, nouns=nouns, removed_nouns=())


def _detections(row: ListedUrl) -> Detections:
    found = FOUND.get(row.list_row, ())
    return Detections(key=row.key, detections=tuple(_detection(c) for c in found))


def _detection(found: Candidate) -> Detection:
    return Detection(
        label=found.label, span_start=found.span_start, span_end=found.span_end, score=found.score, box=found.box
    )


def _entities(row: ListedUrl) -> Entities:
    return Entities(key=row.key, candidates=FOUND[row.list_row])


def edit(
    path: Path,
    change: Callable[[list[Record]], Any] = lambda rows: None,
    *,
    rows_per_group: int = 64,
    counts: Mapping[str, int] | None = None,
    extra_column: bool = False,
) -> None:
    """Rewrite a file with changed rows, under its own stamp and a fresh checksum."""
    table, metadata = pq.read_table(path), dict(pq.read_metadata(path).metadata)
    rows = table.to_pylist()
    change(rows)
    schema = table.schema.remove_metadata()
    if extra_column:
        schema, rows = schema.append(pa.field("extra", pa.string())), [row | {"extra": "x"} for row in rows]
    about = {key.decode(): value.decode() for key, value in metadata.items() if key != b"ARROW:schema"}
    about |= {KEY: PLACEHOLDER} | ({"counts": json.dumps(counts)} if counts else {})
    with path.open("w+b") as file:
        with pq.ParquetWriter(file, schema) as writer:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema), row_group_size=rows_per_group)
            writer.add_key_value_metadata(about)
        seal(file)


def with_image(row: Record, encoded: bytes) -> None:
    """Replace the image of a row, with its SHA-256."""
    row["image"], row["sha256"] = encoded, hashlib.sha256(encoded).digest()
