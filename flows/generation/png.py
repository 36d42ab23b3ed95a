"""PNG files that tell how to make them again: a text chunk `subject-diffusion` holds the provenance as JSON.

The chunks `Description`, the prompt, and `Software` are those of the PNG specification, which viewers show.
"""

import io
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo
from pydantic import ValidationError

from flows.generation.errors import InvalidJob
from flows.generation.provenance import Provenance

KEYWORD = "subject-diffusion"
"""Keyword of the chunk with the provenance."""
MAX_TEXT_BYTES = 48 << 20
"""Largest provenance, in bytes of JSON. Pillow reads 64 MiB of text in one file."""


def encode_png(image: Image.Image, provenance: Provenance) -> bytes:
    """Return the image as a PNG file with its provenance. Images of subjects that it holds are embedded.

    Raises:
        InvalidJob: the embedded images are too large.
    """
    text = provenance.model_dump_json()
    if len(text) > MAX_TEXT_BYTES:
        raise InvalidJob(
            f"the images of the subjects take {len(text):,} bytes as text, more than the {MAX_TEXT_BYTES:,} that a PNG "
            "may embed: scale them down, or leave --embed-subjects out"
        )
    info = PngInfo()
    info.add_itxt("Description", provenance.job.prompt)
    info.add_itxt("Software", f"Subject-Diffusion {provenance.versions.get(KEYWORD, '')}".strip())
    info.add_itxt(KEYWORD, text)  # not compressed: Pillow refuses to decompress more than 1 MiB
    encoded = io.BytesIO()
    image.save(encoded, "PNG", pnginfo=info)
    return encoded.getvalue()


def read_png(path: Path) -> tuple[Image.Image, Provenance]:
    """Read an image and its provenance.

    Raises:
        InvalidJob: the file is missing, damaged, or was not written by `encode_png`.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.load()
            assert isinstance(image, PngImageFile)
            text = image.text.get(KEYWORD)
            pixels = image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InvalidJob(f"{path} cannot be read as a PNG file ({error}): give an image of `generate`") from error
    if text is None:
        raise InvalidJob(
            f"{path} does not tell how it was made: give a PNG file of `generate`, as it was written; most programs "
            "that edit or convert images drop this text"
        )
    return pixels, parse_provenance(text, str(path))


def parse_provenance(text: str, source: str) -> Provenance:
    """Return the provenance that the text of a chunk describes.

    Raises:
        InvalidJob: it is damaged, or of a later version of this project.
    """
    try:
        return Provenance.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidJob(
            f"{source}: its text {KEYWORD!r} is damaged, or of another version of the project ({where}: {first['msg']})"
        ) from None
