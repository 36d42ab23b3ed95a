"""Sprites that scenes are composed of: Fluent 3D emoji with plain English names.

`sprites/sprites.csv` is the list, `sprites/sprites.parquet` is the same list with the pictures in it (256 px webp, byte
for byte as published). After a change of the list, write the container again:

    npm pack @lobehub/fluent-emoji-3d@1.1.0 && tar xzf lobehub-fluent-emoji-3d-1.1.0.tgz
    python -m miniature.world.sprites package/assets

A name has one to three words that a part-of-speech tagger takes for a noun at any place in a caption: "croissant" and
"polar bear" are not in the list, because the tagger takes them for adjectives.
"""

import argparse
import csv
import io
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from labeling.sdd.arrow import Label, LargeBytes, names_of, record_of, row_of, schema_of

FOLDER = Path(__file__).parents[1] / "sprites"
LIST = FOLDER / "sprites.csv"
CONTAINER = FOLDER / "sprites.parquet"
SIDES_PX = (64, 128, 256)
"""Longest sides at which cutouts are kept in memory, in pixels; the picture itself is 256 px."""
_VISIBLE = 8
"""Smallest alpha of a visible pixel, 0 to 255; fainter margins are cropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sprite:
    """A thing with a name, the coarser word for its class, and its picture."""

    name: str
    """Unique name, lower case, such as "fire truck"."""
    article: Label
    """Article of the name: a, an or some."""
    class_word: Label
    """Coarser word, such as "vehicle"."""
    class_article: Label
    """Article of the class word."""
    held_out: bool
    """Whether no network is trained on the sprite, so that scores can test unseen subjects."""
    code_points: str
    """Unicode code points in hexadecimal, joined by "-", which name the published file."""
    webp: LargeBytes = field(repr=False)
    """Published picture."""


@cache
def sprites() -> tuple[Sprite, ...]:
    """Return all sprites, in the order of the list."""
    return tuple(row_of(Sprite, record) for record in pq.read_table(CONTAINER).to_pylist())


@cache
def cutout(sprite: Sprite, side_px: int) -> NDArray[np.uint8]:
    """Return the picture cropped to its visible part, with longest side `side_px`: RGBA, premultiplied by alpha.

    Premultiplied colour can be resized and warped without fringes, since transparent pixels have no weight.
    """
    crop = _crop(sprite).astype(np.float32)
    crop[..., :3] *= crop[..., 3:] / 255.0
    scale = side_px / max(crop.shape[:2])
    size = (max(1, round(crop.shape[1] * scale)), max(1, round(crop.shape[0] * scale)))
    resized = cv2.resize(crop, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    pixels: NDArray[np.uint8] = resized.round().astype(np.uint8)
    pixels.flags.writeable = False
    return pixels


@cache
def outline(sprite: Sprite) -> NDArray[np.float32]:
    """Return the hull of the visible part, [P, 2]: x and y from the crop's centre, in units of its longest side."""
    visible = _crop(sprite)[..., 3] >= _VISIBLE
    hull: NDArray[np.float32] = cv2.convexHull(np.argwhere(visible)[:, ::-1].astype(np.float32))[:, 0]
    height, width = visible.shape
    hull -= ((width - 1) / 2, (height - 1) / 2)
    hull /= max(height, width)
    return hull


def pack(pictures: Path, listed: Path = LIST, container: Path = CONTAINER) -> int:
    """Write `container` from the list and the folder of published webp files, and return the number of sprites.

    Raises:
        FileNotFoundError: a listed picture is not in `pictures`.
    """
    with listed.open(newline="") as file:
        rows = [_sprite(line, pictures) for line in csv.DictReader(file)]
    table = pa.Table.from_pylist([record_of(row) for row in rows], schema=schema_of(Sprite))
    codecs = {name: "none" if name == "webp" else "zstd" for name in names_of(Sprite)}
    pq.write_table(table, container, compression=codecs, write_statistics=False)
    return len(rows)


@lru_cache(maxsize=1)  # the outline and a cutout of a sprite are used one after the other
def _crop(sprite: Sprite) -> NDArray[np.uint8]:
    rgba = np.asarray(Image.open(io.BytesIO(sprite.webp)).convert("RGBA"))
    rows, columns = (np.flatnonzero((rgba[..., 3] >= _VISIBLE).any(axis=axis)) for axis in (1, 0))
    return rgba[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _sprite(line: dict[str, str], pictures: Path) -> Sprite:
    path = pictures / f"{line['code_points']}.webp"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: sprite {line['name']!r} of {LIST.name} needs it")
    return Sprite(
        name=line["name"],
        article=line["article"],
        class_word=line["class_word"],
        class_article=line["class_article"],
        held_out=line["held_out"] == "yes",
        code_points=line["code_points"],
        webp=path.read_bytes(),
    )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Pack the listed sprites into one file.")
    parser.add_argument("pictures", type=Path, help="package/assets of the unpacked @lobehub/fluent-emoji-3d")
    print(f"{pack(parser.parse_args().pictures)} sprites in {CONTAINER}")


if __name__ == "__main__":
    main()
