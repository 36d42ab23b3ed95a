"""The HTML element of a small image, whose content is in the page."""

import base64
from html import escape

from infra.report.document import Picture


def image_element(picture: Picture) -> str:
    """Return the element of a picture; that of an empty frame if it has no content."""
    if not picture.webp:
        return f'<div class="none" role="img" aria-label="{escape(picture.alt)}"></div>'
    source = f"data:image/webp;base64,{base64.b64encode(picture.webp).decode()}"
    return f'<img src="{source}" alt="{escape(picture.alt)}">'
