"""The place of a label in a caption, for labels that no tagger found there."""

import re


def label_span(label: str, caption: str) -> tuple[int, int]:
    """Return start and end of the first place where `label` is a word of the caption; else of the whole caption."""
    found = re.search(rf"(?<!\w){re.escape(label)}(?!\w)", caption, re.IGNORECASE)
    return found.span() if found else (0, len(caption))
