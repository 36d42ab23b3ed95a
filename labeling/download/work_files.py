"""Files of a download in `work/images/`: lists and reports of a run, and the former stamps of a shard.

lists-RUN/                the rows of each shard, as img2dataset's Reader cuts them
SHARD.RUN.report.json     report of a shard, written by the process that made it
SHARD.former              stamps that the shard's file had before images were added
"""

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from upath import UPath

from infra.storage import contents, publish_bytes
from labeling.execution.presence import is_run_alive
from labeling.execution.report import ShardReport
from labeling.sdd.schema import Layer
from labeling.sdd.shards import ShardStore

_RUN_FILE = re.compile(r"lists-(?P<lists>[0-9a-f]{12})|shard-\d+\.(?P<report>[0-9a-f]{12})\.report\.json")
"""Name of a file that belongs to one run."""


def lists_folder(store: ShardStore, run: str) -> UPath:
    """Return the folder of a run's lists; other runs may work on the same dataset."""
    return _folder(store) / f"lists-{run}"


def write_report(store: ShardStore, report: ShardReport, run: str) -> None:
    """Write the report of a shard."""
    _report_path(store, report.shard, run).write_text(json.dumps(asdict(report)))


def take_reports(store: ShardStore, shards: Sequence[str], run: str) -> Iterator[tuple[str, ShardReport]]:
    """Read and remove the reports of a run; shards without one are left out."""
    for shard in shards:
        path = _report_path(store, shard, run)
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):  # the process was killed
            yield shard, ShardReport(**json.loads(path.read_text()))
            path.unlink()


def remove_stale_files(store: ShardStore) -> None:
    """Remove the lists and reports of killed runs."""
    folder = _folder(store)
    for path in folder.iterdir() if folder.exists() else ():
        match = _RUN_FILE.fullmatch(path.name)
        if match and not is_run_alive(store.root, match["lists"] or match["report"]):
            path.fs.rm(path.path, recursive=True)


def former_stamps(store: ShardStore, shard: str) -> set[str]:
    """Return the stamps that the shard's file had before images were added; later files may have been made from it."""
    try:
        return set(contents(_former_path(store, shard)).decode().split())
    except FileNotFoundError:
        return set()


def add_former_stamp(store: ShardStore, shard: str, stamp: str) -> None:
    """Add a stamp to `former_stamps`."""
    text = "\n".join(sorted(former_stamps(store, shard) | {stamp})).encode()
    publish_bytes(_former_path(store, shard), text)


def _folder(store: ShardStore) -> UPath:
    return store.root / "work" / Layer.IMAGES


def _report_path(store: ShardStore, shard: str, run: str) -> UPath:
    return _folder(store) / f"{shard}.{run}.report.json"


def _former_path(store: ShardStore, shard: str) -> UPath:
    return _folder(store) / f"{shard}.former"
