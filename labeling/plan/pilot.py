"""The pilot of a plan: a build of some URLs of the list, drawn at random."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.storage import is_local, storage_path
from labeling.config import LabelingConfig
from labeling.download.lists.list_reader import COLUMNS, list_files, read_tables
from labeling.errors import LabelingError

_SIZES = (5, 6, 1, 10, 2, 9, 3, 8, 4, 7)
"""Relative sizes of the shards of a pilot. They differ, so that the cost of a shard can be told from that of its
images; the first ones, in which networks warm up, are of middle size."""
_SEED = 0


def run_pilot(config: LabelingConfig, urls: int, build: Callable[[LabelingConfig], object]) -> str:
    """Build a dataset of some URLs of the list beside `labeling.root`, and return its folder.

    A pilot that was stopped is resumed; a finished one is used again.

    Args:
        config: settings of the planned build.
        urls: URLs of the pilot.
        build: function that builds a dataset.

    Raises:
        LabelingError: `labeling.urls` is not set or has no rows, or `labeling.root` is not local; others of the build.
    """
    root = storage_path(config.root)
    if not is_local(root):
        raise LabelingError(
            f"labeling.root={config.root}: the pilot needs a local folder. Run the plan with --set labeling.root=FOLDER"
        )
    folder = Path(root.path).with_name(f"{root.name}.pilot-{urls}")
    if not (folder / "urls").exists():
        _write_lists(_sample(config, urls), folder / "urls")
    lists = tuple(str(file) for file in sorted((folder / "urls").iterdir()))
    build(config.model_copy(update={"root": str(folder / "sdd"), "urls": lists, "images_per_shard": urls}))
    return str(folder / "sdd")


def _sample(config: LabelingConfig, count: int) -> pa.Table:
    """Return `count` rows of the list, each as likely as the others, in their order; all of a shorter list."""
    if not config.lists:
        raise LabelingError("labeling.urls is not set: give the list, or an earlier build with --from")
    rng = np.random.default_rng(_SEED)
    drawn: pa.Table | None = None
    for path in config.lists:
        for table in read_tables(list_files(path), tuple(COLUMNS)):
            table = table.append_column("lot", pa.array(rng.random(table.num_rows)))
            table = table if drawn is None else pa.concat_tables([drawn, table])
            first = np.argsort(table["lot"].to_numpy(), kind="stable")[:count]
            drawn = table.take(pa.array(np.sort(first)))
    if drawn is None or not drawn.num_rows:
        raise LabelingError(f"labeling.urls={config.urls!r} has no rows: a list needs at least one URL")
    names = {column: name for name, column in COLUMNS.items()} | {"lot": "lot"}
    return drawn.rename_columns([names[column] for column in drawn.column_names]).drop_columns("lot")


def _write_lists(sample: pa.Table, folder: Path) -> None:
    """Write the sample as lists that become shards of different sizes, each a random part of it."""
    order = np.random.default_rng(_SEED).permutation(sample.num_rows)
    ends = np.rint(np.cumsum(_SIZES) / sum(_SIZES) * len(order)).astype(int)
    unfinished = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for number, rows in enumerate(np.split(order, ends[:-1])):
        if len(rows):
            pq.write_table(sample.take(pa.array(np.sort(rows))), unfinished / f"{number}.parquet")
    unfinished.replace(folder)
