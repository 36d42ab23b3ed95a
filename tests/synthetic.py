"""Datasets of any size whose rows are random columns: for measurements, in seconds per million rows.

Each shard has `urls/`, `sdd/` and `ledger/` in the format of the real ones, with 64 rows a row group. Half of the URLs
are kept, an eighth is dropped by rules, and the others were not downloaded. Images are a few bytes that no program
can decode.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from labeling.sdd import masks
from labeling.sdd.arrow import dictionary_paths, leaf_paths, schema_of
from labeling.sdd.footer import Stamp
from labeling.sdd.schema import VERSION, Entity, JudgedCandidate, LedgerRow, ListedUrl, SddRow
from labeling.sdd.seal import seal
from labeling.sdd.shards import ROWS_PER_GROUP

URLS_PER_SHARD = 1024
LABELS = np.array([f"label {number}" for number in range(20_000)])
HOSTS = np.array([f"images{number}.example.com" for number in range(50_000)])
WORDS = np.array([f"word{number}" for number in range(500)])
SIDE_PX = 1280
VERDICTS = (
    *[("kept", "sdd", "")] * 4,
    ("dropped", "sdd", "small_box"),
    ("not_downloaded", "images", "http_404"),
    ("not_downloaded", "images", "http_403"),
    ("not_downloaded", "images", "timeout"),
)
Columns = Mapping[str, pa.Array]


def synthetic_dataset(root: Path, urls: int) -> Path:
    """A dataset of `urls` listed URLs; the same number writes the same rows."""
    for number, start in enumerate(range(0, urls, URLS_PER_SHARD)):
        rng = np.random.default_rng(number)
        rows = min(URLS_PER_SHARD, urls - start)
        verdicts = rng.integers(0, len(VERDICTS), rows)
        listed = _listed(rng, start, rows)
        labels = _labels(rng, verdicts)
        _write(root, "urls", number, ListedUrl, listed)
        _write(root, "ledger", number, LedgerRow, _judged(rng, listed, verdicts, labels))
        _write(root, "sdd", number, SddRow, _kept(rng, listed, verdicts, labels))
    return root


def _listed(rng: np.random.Generator, start: int, rows: int) -> Columns:
    """Columns of `urls/`, in the order of their keys."""
    keys = sorted(hashlib.md5(f"{start + row}".encode()).digest() for row in range(rows))
    hosts = HOSTS[rng.zipf(1.3, rows) % len(HOSTS)]
    urls = [f"https://{host}/{start + row}.jpg" for row, host in enumerate(hosts)]
    empty = pa.nulls(rows)
    scores = pa.array(rng.normal(5.6, 0.4, rows).astype(np.float32))
    return dict.fromkeys(schema_of(ListedUrl).names, empty) | {
        "key": pa.array(keys, pa.binary(16)),
        "list_row": pa.array(np.arange(start, start + rows)),
        "url": pa.array(urls),
        "aesthetic_score": scores,
    }


def _labels(rng: np.random.Generator, verdicts: NDArray[np.int64]) -> tuple[NDArray[np.int32], pa.Array]:
    """Offsets and labels of the candidates of each URL: one to five where it was judged, else none."""
    judged = np.array([stage == "sdd" for _, stage, _ in VERDICTS])[verdicts]
    counts = np.where(judged, rng.integers(1, 6, len(verdicts)), 0)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return offsets, pa.array(LABELS[rng.zipf(1.2, offsets[-1]) % len(LABELS)])


def _judged(
    rng: np.random.Generator,
    listed: Columns,
    verdicts: NDArray[np.int64],
    labels: tuple[NDArray[np.int32], pa.Array],
) -> Columns:
    """Columns of `ledger/`."""
    offsets, names = labels
    dropped = np.repeat(verdicts == 4, np.diff(offsets))
    broken_offsets = np.concatenate([[0], np.cumsum(dropped)]).astype(np.int32)
    values = _columns_of_boxes(rng, len(names)) | {
        "label": names,
        "broken": pa.ListArray.from_arrays(broken_offsets, pa.array(["small_box"] * int(dropped.sum()))),
    }
    columns = {name: pa.array([verdict[at] for verdict in VERDICTS]).take(pa.array(verdicts)) for at, name in _VERDICT}
    rows = len(verdicts)
    return (
        {name: pa.nulls(rows) for name in schema_of(LedgerRow).names}
        | columns
        | {
            **{name: listed[name] for name in ("key", "list_row", "url")},
            "width_px": pa.array(np.full(rows, SIDE_PX, np.int32)),
            "height_px": pa.array(np.full(rows, SIDE_PX, np.int32)),
            "detail": pa.array([""] * rows),
            "candidates": _list_of(JudgedCandidate, offsets, values),
        }
    )


_VERDICT = tuple(enumerate(("state", "stage", "reason")))


def _kept(
    rng: np.random.Generator,
    listed: Columns,
    verdicts: NDArray[np.int64],
    labels: tuple[NDArray[np.int32], pa.Array],
) -> Columns:
    """Columns of `sdd/`."""
    offsets, names = labels
    kept = np.flatnonzero(verdicts < 4)
    inside = pa.array(np.repeat(verdicts < 4, np.diff(offsets)))
    names = names.filter(inside)
    count = len(names)
    mask = {
        "counts": pa.array([_MASK.counts] * count),
        **{name: pa.array(np.full(count, _MASK.width_px, np.int32)) for name in ("x0", "y0", "width_px", "height_px")},
    }
    values = _columns_of_boxes(rng, count) | {
        "label": names,
        "span_start": pa.array(np.zeros(count, np.int32)),
        "span_end": pa.array(np.full(count, 4, np.int32)),
        "mask": pa.StructArray.from_arrays(list(mask.values()), names=list(mask)),
        "mask_area_px": pa.array(rng.integers(90_000, 900_000, count).astype(np.int32)),
    }
    words = WORDS[rng.integers(0, len(WORDS), (len(kept), 15))]
    captions = [" ".join(line[:length]) for line, length in zip(words, rng.integers(5, 16, len(kept)), strict=True)]
    columns = {name: listed[name].take(pa.array(kept)) for name in schema_of(SddRow).names if name in listed}
    size = pa.array(np.full(len(kept), SIDE_PX, np.int32))
    return columns | {
        "caption": pa.array(captions),
        "entities": _list_of(Entity, np.concatenate([[0], np.cumsum(np.diff(offsets)[kept])]).astype(np.int32), values),
        "width_px": size,
        "height_px": size,
        "sha256": pa.array([bytes(32)] * len(kept), pa.binary(32)),
        "perceptual_hash": pa.array(rng.integers(0, 1 << 62, len(kept))),
        "media_type": pa.array(["image/jpeg"] * len(kept)),
        "image": pa.array([b"not an image"] * len(kept), pa.large_binary()),
    }


def _columns_of_boxes(rng: np.random.Generator, count: int) -> dict[str, pa.Array]:
    """Columns that entities and judged candidates share."""
    corners = rng.uniform(0, SIDE_PX / 2, (2, count)).astype(np.float32)
    sides = rng.uniform(SIDE_PX / 4, SIDE_PX / 2, (2, count)).astype(np.float32)
    box = pa.StructArray.from_arrays(
        [pa.array(edge) for edge in (*corners, *(corners + sides))], names=["x0", "y0", "x1", "y1"]
    )
    shares = {
        name: pa.array(rng.uniform(0.2, 1, count).astype(np.float32))
        for name in ("score", "mask_fill", "predicted_iou", "stability")
    }
    return {"box": box, **shares}


def _list_of(row: type, offsets: NDArray[np.int32], values: Mapping[str, pa.Array]) -> pa.Array:
    """A column of lists of `row`, with the fields of `row` alone."""
    kind = pa.struct(list(schema_of(row)))
    struct = pa.StructArray.from_arrays(
        [values[field.name].cast(field.type) if field.name != "mask" else values["mask"] for field in kind],
        fields=list(kind) if "mask" not in values else None,
        names=[field.name for field in kind] if "mask" in values else None,
    )
    return pa.ListArray.from_arrays(offsets, struct)


def _write(root: Path, layer: str, number: int, row: type, columns: Columns) -> None:
    schema = schema_of(row)
    shard = f"shard-{number:05d}"
    table = pa.table([columns[field.name].cast(field.type) for field in schema], schema=schema)
    leaves = leaf_paths(schema)
    stamp = Stamp(_STAMP, {"kept": len(table)}, _STAMP, _STAMP, f"{layer}/{shard}")
    (root / layer).mkdir(parents=True, exist_ok=True)
    with (root / layer / f"{shard}.parquet").open("w+b") as file:
        with pq.ParquetWriter(
            file,
            schema,
            compression={leaf: "NONE" if leaf == "image" else "ZSTD" for leaf in leaves},
            use_dictionary=[*dictionary_paths(row), *(name for name in ("state", "stage", "reason") if name in leaves)],
            write_statistics=[leaf for leaf in leaves if leaf != "image"],
            write_page_index=True,
        ) as writer:
            writer.write_table(table, row_group_size=ROWS_PER_GROUP)
            writer.add_key_value_metadata(stamp.metadata() | {"version": str(VERSION)})
        seal(file)


_STAMP = "synthetic"
_MASK = masks.encode(np.tri(32, dtype=bool))
