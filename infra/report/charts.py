"""Charts of rows of values, as SVG."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from infra.report.drawing import FOOT_PX, LABEL_PX, PLOT_PX, TOP_PX, WIDTH_PX, Axis, drawing, text, vertical_lines

_ROW_PX = 18


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


def _marks(axis: Axis, marks: Sequence[tuple[str, float]], height: float) -> Iterable[str]:
    for name, value in marks:
        x = axis.x(value)
        yield (
            f'<line x1="{x:.1f}" y1="{TOP_PX}" x2="{x:.1f}" y2="{height}" stroke="var(--aside)" '
            'stroke-dasharray="4 3"/>'
        )
        yield text(x, height + 30, f"{name} {value:.3f}", "middle", "var(--aside)")
