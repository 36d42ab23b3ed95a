"""Subjects of a folder of cut-outs that nothing of the miniature world was made for, such as Tux Paint's stamps.

A TOML file names the sub-folders of each class word, relative to the folder:

    [folders]
    bird = ["animals/birds"]
    boat = ["vehicles/ship", "vehicles/sail"]
"""

import hashlib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, UnidentifiedImageError

from miniature.errors import FolderError
from miniature.world.sprites import Sprite, sprites

MIN_SIDE_PX = 64
"""Shortest side of a usable picture, in pixels."""
_OPAQUE = 128
"""Smallest alpha inside a subject's mask, 0 to 255."""
_COPIES = ("_mirror", "_flip")
"""Endings of the names of mirrored copies in Tux Paint's folders."""


def choose_subjects(folder: Path, words: Path, count: int) -> list[Sprite]:
    """Return `count` cut-outs as sprites, named by their path.

    From each class word in turn, the file whose path has the next SHA-256 is taken, so that nobody chooses. Pictures
    without transparency, pictures with a side under `MIN_SIDE_PX`, and mirrored copies are left out.

    Raises:
        FolderError: a class word is unknown, a sub-folder is missing, or there are fewer than `count` cut-outs.
    """
    table = _read_words(words)
    columns = [_of_word(folder, word, table[word]) for word in table]
    found = [one for one in chain.from_iterable(zip_longest(*columns)) if one is not None]
    if len(found) < count:
        raise FolderError(f"{folder} has {len(found)} cut-outs in the sub-folders of {words}, not {count}")
    return found[:count]


def read_cutout(folder: Path, subject: Sprite) -> tuple[UInt8[np.ndarray, "n n 3"], Bool[np.ndarray, "n n"]]:
    """Return the picture of a chosen subject in the middle of a white square, RGB, and its mask."""
    with Image.open(folder / subject.name) as image:
        cutout = image.convert("RGBA")
    square = Image.new("RGBA", (max(cutout.size),) * 2, (255, 255, 255, 0))
    square.paste(cutout, ((square.width - cutout.width) // 2, (square.height - cutout.height) // 2))
    pixels = np.asarray(square)
    return pixels[..., :3].copy(), pixels[..., 3] >= _OPAQUE


def _read_words(path: Path) -> Mapping[str, Sequence[str]]:
    try:
        table: Mapping[str, Sequence[str]] = tomllib.loads(path.read_text())["folders"]
    except (OSError, tomllib.TOMLDecodeError, KeyError) as error:
        raise FolderError(f"{path}: {error!r}; give a TOML file with a table [folders]") from error
    unknown = sorted(table.keys() - _articles().keys())
    if unknown:
        raise FolderError(f"{path}: no class words: {', '.join(unknown)}; the words are {', '.join(_articles())}")
    return table


def _of_word(folder: Path, word: str, sub_folders: Sequence[str]) -> Iterator[Sprite]:
    """Yield the usable cut-outs of a class word, in the order of their names' SHA-256."""
    paths: list[Path] = []
    for name in sub_folders:
        if not (folder / name).is_dir():
            raise FolderError(f"{folder / name} is no folder: correct the line of {word!r}")
        paths += (folder / name).glob("*.png")
    names = (str(path.relative_to(folder)) for path in paths if not path.stem.endswith(_COPIES))
    for name in sorted(names, key=lambda one: hashlib.sha256(one.encode()).hexdigest()):
        if _is_cutout(folder / name):
            yield _sprite(folder, name, word)


def _is_cutout(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            alpha = np.asarray(image.convert("RGBA"))[..., 3]
    except (OSError, UnidentifiedImageError):
        return False
    inside = alpha >= _OPAQUE
    return min(alpha.shape) >= MIN_SIDE_PX and bool(inside.any()) and not bool(inside.all())


def _sprite(folder: Path, name: str, word: str) -> Sprite:
    article = _articles()[word]
    return Sprite(
        name=name,
        article=article,
        class_word=word,
        class_article=article,
        held_out=True,
        code_points="",
        webp=(folder / name).read_bytes(),
    )


def _articles() -> dict[str, str]:
    """Return the article of each class word."""
    return {sprite.class_word: sprite.class_article for sprite in sprites()}
