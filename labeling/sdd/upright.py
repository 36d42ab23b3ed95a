"""Encoded images for programs that ignore the EXIF orientation, by which boxes and masks of the dataset go."""

import io

from labeling.sdd.pixels import MAX_PIXELS, open_image, orientation_of, upright_image

SUFFIXES = {
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "image/webp": ".webp",
    "image/gif": ".gif",
    "image/avif": ".avif",
    "image/bmp": ".bmp",
    "image/tiff": ".tiff",
}
"""File name suffixes of the media types that a dataset can hold."""


def upright_file(encoded: bytes, media_type: str) -> tuple[str, bytes]:
    """Return suffix and bytes of an image file: the stored bytes, or a PNG if an EXIF orientation would turn them.

    Raises:
        UndecodableImage: the image is damaged.
    """
    with open_image(encoded, MAX_PIXELS) as image:
        if orientation_of(image) is None:
            return SUFFIXES.get(media_type, ".bin"), encoded
        png = io.BytesIO()
        upright_image(image).save(png, "PNG")
    return ".png", png.getvalue()
