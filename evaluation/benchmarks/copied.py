"""Files of a user's copy of published lists that may not ship with the project."""

from pathlib import Path

from evaluation.errors import InvalidBenchmark

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})


def read_text(path: Path, cure: str) -> str:
    """Return the text of a file.

    Args:
        path: the file.
        cure: where to get it, the end of messages.

    Raises:
        InvalidBenchmark: the file is missing or not text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidBenchmark(f"{path} cannot be read ({error.strerror}): {cure}") from None
    except UnicodeDecodeError as error:
        raise InvalidBenchmark(f"{path}: not text ({error}): {cure}") from None


def read_lines(path: Path, cure: str) -> list[str]:
    """Return the lines of a file that are not blank, without space around them.

    Raises:
        InvalidBenchmark: as `read_text`, or the file has no lines.
    """
    lines = [line.strip() for line in read_text(path, cure).splitlines() if line.strip()]
    if not lines:
        raise InvalidBenchmark(f"{path} is empty: {cure}")
    return lines


def image_files(copy: Path, folder: Path, cure: str) -> tuple[str, ...]:
    """Return the images of a folder by name, as paths relative to `copy`.

    Raises:
        InvalidBenchmark: the folder is missing or holds no image.
    """
    files = sorted((copy / folder).iterdir()) if (copy / folder).is_dir() else []
    images = tuple(
        (folder / file.name).as_posix()
        for file in files
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
    )
    if not images:
        raise InvalidBenchmark(f"{copy / folder} holds no images: {cure}")
    return images
