"""A finished dataset of two shards, and what may happen to one."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from labeling.config import RulesConfig
from labeling.finish import FinishJob
from labeling.sdd.schema import CONFIRMATIONS, Confirmation, Confirmations, Layer
from labeling.sdd.shards import ShardStore
from tests.factories import CAT, DOG, SHARD, labelled, refused

NEXT = "shard-00001"


def dataset_of_two(root: Path, list_stamp: str = "list", rules: RulesConfig | None = None) -> Path:
    """A finished dataset; another list's has the same rows under other stamps."""
    found = {21: (DOG,), 22: (DOG, CAT), 23: (CAT,)}
    labelled(root, list_stamp=list_stamp)
    labelled(root, found, {24: ("captions", refused(24))}, NEXT, list_stamp)
    job = FinishJob(root=str(root), rules=rules or RulesConfig(), layers=tuple(Layer)[1:6])
    for shard in (SHARD, NEXT):
        assert job.make(shard).error is None
    return root


def write_confirmations(root: Path, found: Mapping[bytes, Sequence[float]]) -> None:
    """Add what a second detector found on images of the second shard: IoUs of their candidates, in order."""
    rows = [
        Confirmations(key=key, confirmations=tuple(map(_confirmation, ious)), overlooked=())
        for key, ious in sorted(found.items())
    ]
    ShardStore(str(root)).write_outcomes(CONFIRMATIONS, NEXT, rows, Confirmations, "second detector")


def _confirmation(iou: float) -> Confirmation:
    return Confirmation(confirmed_iou=iou, confirmed_score=0.8, label_quality=1.0, mask_quality=0.9)


def flip(path: Path, at: int) -> None:
    """Change a bit of byte `at`."""
    whole = bytearray(path.read_bytes())
    whole[at] ^= 0x04
    path.write_bytes(whole)


def swap(folder: Path) -> None:
    """Exchange the names of the two shards."""
    (folder / f"{SHARD}.parquet").rename(folder / "aside")
    (folder / f"{NEXT}.parquet").rename(folder / f"{SHARD}.parquet")
    (folder / "aside").rename(folder / f"{NEXT}.parquet")


def _file_of_another(root: Path, name: str) -> None:
    other = dataset_of_two(root.parent / "other", "another list")
    shutil.copy(other / "sdd" / f"{NEXT}.parquet", root / "sdd" / f"{name}.parquet")


FOREIGN: dict[str, tuple[Callable[[Path], None], str]] = {
    "a file of another program": (lambda root: pq.write_table(pa.table({"a": [1]}), root / "sdd/x.parquet"), "sdd/x"),
    "text": (lambda root: (root / "sdd/a.parquet").write_text("<html>"), "sdd/a"),
    "a folder": (lambda root: (root / "sdd/x.parquet").mkdir(), "sdd/x"),
    "a folder with a shard's name": (lambda root: (root / "sdd/shard-00002.parquet").mkdir(), "sdd/shard-00002"),
    "a shard too many": (lambda root: _file_of_another(root, "shard-00099"), "sdd/shard-00099"),
    "a shard of another dataset": (lambda root: _file_of_another(root, NEXT), f"sdd/{NEXT}"),
    "swapped shards": (lambda root: swap(root / "sdd"), f"sdd/{SHARD}"),
}
"""What others may leave in sdd/, and the file that is to be named for it."""
