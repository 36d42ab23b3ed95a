"""Chart of the trade-off between likeness to the subject and to the prompt."""

from collections.abc import Sequence

from evaluation.scores.tradeoff import Point, pareto_front
from infra.report.drawing import (
    FOOT_PX,
    LABEL_PX,
    PLOT_PX,
    TOP_PX,
    WIDTH_PX,
    Axis,
    drawing,
    round_tick,
    text,
    vertical_lines,
)


def tradeoff_chart(title: str, points: Sequence[Point], across: str, up: str) -> str:
    """Draw settings by their likeness to the prompt (across) and to the subject (up), and join those no other beats.

    Args:
        title: what the chart shows, for readers who cannot see it.
        points: the settings; at least one.
        across: name of the likeness to the prompt.
        up: name of the likeness to the subject.
    """
    horizontal = Axis.of([point.prompt for point in points])
    vertical = Axis.of([point.subject for point in points])
    height = 320

    def y(value: float) -> float:
        return TOP_PX + height - (height - 2 * TOP_PX) * vertical.share(value)

    parts = list(vertical_lines(horizontal, height + TOP_PX))
    parts += [text(LABEL_PX - 8, y(tick) + 4, round_tick(tick), "end", "var(--soft)") for tick in vertical.ticks]
    front = " ".join(f"{horizontal.x(one.prompt):.1f},{y(one.subject):.1f}" for one in pareto_front(points))
    parts.append(f'<polyline points="{front}" fill="none" stroke="var(--mark)" opacity=".45"/>')
    for point in points:
        x = horizontal.x(point.prompt)
        parts.append(f'<circle cx="{x:.1f}" cy="{y(point.subject):.1f}" r="4" fill="var(--mark)"/>')
        parts.append(text(x + 7, y(point.subject) - 5, point.name))
    parts.append(text(LABEL_PX + PLOT_PX / 2, height + TOP_PX + 32, across, "middle", "var(--soft)"))
    parts.append(text(8, TOP_PX + height / 2, up, "start", "var(--soft)"))
    return drawing(title, parts, WIDTH_PX, height + TOP_PX + FOOT_PX + 8)
