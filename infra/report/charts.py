"""Charts of rows of values, as SVG."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from infra.report.drawing import FOOT_PX, LABEL_PX, PLOT_PX, TOP_PX, WIDTH_PX, Axis, drawing, text, vertical_lines

_ROW_PX = 18
_SIDE_PX, _COLUMNS_PX = 90, 150
"""Width of the scale, and height of the highest column."""
_NAMED_COLUMNS = 20
"""Most columns whose names fit below them."""


@dataclass(frozen=True, slots=True)
class Range:
    """A row of a chart: a value with a range."""

    name: str
    value: float
    low: float
    high: float


def range_chart(title: str, rows: Sequence[Range], marks: Sequence[tuple[str, float]] = ()) -> str:
    """Draw a dot and a range for each row, with values along the horizontal axis.

    Args:
        title: what the chart shows, for readers who cannot see it.
        rows: the rows, from top to bottom; at least one.
        marks: labelled vertical lines, such as the score of real photos.
    """
    axis = Axis.of([end for row in rows for end in (row.low, row.high)] + [value for _, value in marks])
    height = TOP_PX + _ROW_PX * len(rows)
    parts = [*vertical_lines(axis, height), *_marks(axis, marks, height)]
    for number, row in enumerate(rows):
        y = TOP_PX + _ROW_PX * number + _ROW_PX / 2
        low, value, high = (axis.x(end) for end in (row.low, row.value, row.high))
        parts.append(text(LABEL_PX - 8, y + 4, row.name, "end"))
        parts.append(f'<line x1="{low:.1f}" y1="{y}" x2="{high:.1f}" y2="{y}" stroke="var(--mark)" opacity=".45"/>')
        parts.append(f'<circle cx="{value:.1f}" cy="{y}" r="4" fill="var(--mark)"/>')
        parts.append(text(LABEL_PX + PLOT_PX + 12, y + 4, f"{row.value:.3f}"))
    return drawing(title, parts, WIDTH_PX, height + FOOT_PX)


def bar_chart(title: str, rows: Sequence[tuple[str, float, str]]) -> str:
    """Draw a bar for each row, from 0 at the left.

    Args:
        title: what the chart shows, for readers who cannot see it.
        rows: name, value (at least 0) and text of each row, from top to bottom; at least one.
    """
    largest = max(value for _, value, _ in rows) or 1.0
    parts = []
    for number, (name, value, label) in enumerate(rows):
        y = TOP_PX + _ROW_PX * number
        length = PLOT_PX * value / largest
        parts.append(text(LABEL_PX - 8, y + 13, name, "end"))
        parts.append(
            f'<rect x="{LABEL_PX}" y="{y + 2}" width="{length:.1f}" height="{_ROW_PX - 4}" fill="var(--mark)"/>'
        )
        parts.append(text(LABEL_PX + length + 6, y + 13, label))
    return drawing(title, parts, WIDTH_PX + 60, TOP_PX + _ROW_PX * len(rows) + TOP_PX)


def column_chart(title: str, columns: Sequence[tuple[str, float]], across: str) -> str:
    """Draw a column for each of a row of values, such as the bins of a histogram, and the largest value beside them.

    Args:
        title: what the chart shows, for readers who cannot see it.
        columns: name and value (at least 0) of each column, from left to right; at least one.
        across: name of the horizontal axis.
    """
    largest = max(value for _, value in columns) or 1.0
    wide, bottom = PLOT_PX / len(columns), TOP_PX + _COLUMNS_PX
    named = -(-len(columns) // _NAMED_COLUMNS)
    parts = [
        f'<line x1="{_SIDE_PX}" y1="{bottom}" x2="{_SIDE_PX + PLOT_PX}" y2="{bottom}" stroke="var(--line)"/>',
        text(_SIDE_PX - 8, TOP_PX + 10, f"{largest:,.0f}", "end", "var(--soft)"),
        text(_SIDE_PX + PLOT_PX / 2, bottom + 34, across, "middle", "var(--soft)"),
    ]
    for number, (name, value) in enumerate(columns):
        x, tall = _SIDE_PX + wide * number, _COLUMNS_PX * value / largest
        parts.append(
            f'<rect x="{x + 0.5:.1f}" y="{bottom - tall:.1f}" width="{max(1.0, wide - 1):.1f}" height="{tall:.1f}" '
            'fill="var(--mark)"/>'
        )
        if number % named == 0:
            parts.append(text(x + wide / 2, bottom + 16, name, "middle", "var(--soft)"))
    return drawing(title, parts, _SIDE_PX + PLOT_PX + 20, bottom + FOOT_PX + 8)


def _marks(axis: Axis, marks: Sequence[tuple[str, float]], height: float) -> Iterable[str]:
    for name, value in marks:
        x = axis.x(value)
        yield (
            f'<line x1="{x:.1f}" y1="{TOP_PX}" x2="{x:.1f}" y2="{height}" stroke="var(--aside)" '
            'stroke-dasharray="4 3"/>'
        )
        yield text(x, height + 30, f"{name} {value:.3f}", "middle", "var(--aside)")
