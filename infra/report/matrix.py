"""Charts of a symmetric matrix of counts, as SVG."""

from collections.abc import Mapping, Sequence
from html import escape

from infra.report.drawing import drawing, text

_CELL_PX, _NAMES_PX = 26, 130


def matrix_chart(title: str, names: Sequence[str], counts: Mapping[tuple[str, str], int]) -> str:
    """Draw a cell for each pair of names, the darker the larger its count, with the count as its tooltip.

    Args:
        title: what the chart shows, for readers who cannot see it.
        names: names of rows and columns.
        counts: counts of pairs, in either order; pairs without one have none.
    """
    both = {**counts, **{(second, first): count for (first, second), count in counts.items()}}
    largest = max(both.values(), default=0) or 1
    parts = []
    for row, first in enumerate(names):
        y = _NAMES_PX + _CELL_PX * row
        parts.append(text(_NAMES_PX - 8, y + 17, first, "end"))
        x = _NAMES_PX + _CELL_PX * row + 17
        parts.append(
            f'<text transform="translate({x} {_NAMES_PX - 8}) rotate(-90)" fill="currentColor">{escape(first)}</text>'
        )
        for column, second in enumerate(names):
            count = both.get((first, second), 0)
            parts.append(
                f'<rect x="{_NAMES_PX + _CELL_PX * column}" y="{y}" width="{_CELL_PX - 2}" height="{_CELL_PX - 2}" '
                f'fill="var(--mark)" fill-opacity="{0.04 + 0.96 * count / largest:.3f}">'
                f"<title>{escape(first)} and {escape(second)}: {count:,}</title></rect>"
            )
    side = _NAMES_PX + _CELL_PX * len(names)
    return drawing(title, parts, side, side)
