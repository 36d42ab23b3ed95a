"""Export as WebDataset: tar files with an image, its caption and its objects per sample.

    shard-000000.tar    KEY.jpg  KEY.txt  KEY.json

A finished tar is not written again when a stopped export resumes.
"""

import io
import json
import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from labeling.exchange.examples import Examples
from labeling.exchange.objects import objects_of
from labeling.sdd.schema import SddRow
from labeling.sdd.upright import upright_file

SAMPLES_PER_TAR = 1000


def export_webdataset(examples: Examples, out: Path) -> None:
    """Write the tar files to the folder `out`."""
    rows, number = examples.rows(), 0
    while first := next(rows, None):
        tar = out / f"shard-{number:06d}.tar"
        rest = islice(rows, SAMPLES_PER_TAR - 1)
        if tar.exists():
            for _ in rest:
                pass
        else:
            _write_tar(tar, first, rest)
        number += 1


def _write_tar(path: Path, first: SddRow, rest: Iterator[SddRow]) -> None:
    unfinished = path.with_suffix(".tmp")
    with tarfile.open(unfinished, "w", format=tarfile.USTAR_FORMAT) as tar:
        _add(tar, first)
        for row in rest:
            _add(tar, row)
    unfinished.replace(path)


def _add(tar: tarfile.TarFile, row: SddRow) -> None:
    suffix, encoded = upright_file(row.image, row.media_type)
    about = {"key": row.key.hex(), "url": row.url, "width": row.width_px, "height": row.height_px}
    parts = {
        suffix: encoded,
        ".txt": row.caption.encode(),
        ".json": json.dumps({**about, "caption": row.caption, "objects": objects_of(row)}).encode(),
    }
    for end, content in parts.items():
        entry = tarfile.TarInfo(f"{row.key.hex()}{end}")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
