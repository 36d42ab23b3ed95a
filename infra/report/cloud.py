"""Clouds of words as SVG: the larger a word, the more frequent it is."""

import math
from collections.abc import Iterator, Sequence
from html import escape
from itertools import pairwise

from infra.report.drawing import drawing

_WIDTH_PX, _MOST_PX, _LEAST_PX, _GAP_PX = 800, 44, 11, 12
_NARROW, _WIDE = frozenset("fijlrt'-., "), frozenset("mw")


def word_cloud(title: str, words: Sequence[tuple[str, int]]) -> str:
    """Draw the words in lines, with areas in proportion to their counts between the least and the most size.

    Args:
        title: what the cloud shows, for readers who cannot see it.
        words: words and their counts, the most frequent first; at least one.
    """
    most = words[0][1]
    sized = [(word, count, max(_LEAST_PX, round(_MOST_PX * math.sqrt(count / most)))) for word, count in words]
    parts, y = [], 0.0
    for line in _lines(sized):
        y += 1.15 * max(size for *_, size in line)
        x = (_WIDTH_PX - sum(_width(word, size) for word, _, size in line) - _GAP_PX * (len(line) - 1)) / 2
        for word, count, size in line:
            wide = _width(word, size)
            parts.append(
                f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" textLength="{wide:.0f}" '
                f'lengthAdjust="spacingAndGlyphs" fill="currentColor">{escape(word)}<title>{count:,}</title></text>'
            )
            x += wide + _GAP_PX
    return drawing(title, parts, _WIDTH_PX, y + _GAP_PX)


def _lines(words: Sequence[tuple[str, int, int]]) -> Iterator[list[tuple[str, int, int]]]:
    """Yield the words of each line, in order, and the largest of a line in its middle."""
    used, begins = float(_WIDTH_PX), []
    for at, (word, _, size) in enumerate(words):
        used += _width(word, size) + _GAP_PX
        if used > _WIDTH_PX:
            begins.append(at)
            used = _width(word, size) + _GAP_PX
    for begin, end in pairwise([*begins, len(words)]):
        line = list(words[begin:end])
        yield line[1::2][::-1] + line[::2]


def _width(word: str, size: int) -> float:
    """Return about the width of a word in a sans-serif font."""
    letters = (0.34 if letter in _NARROW else 0.9 if letter in _WIDE else 0.6 for letter in word)
    return size * max(0.34, sum(letters))
