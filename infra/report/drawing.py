"""Drawing of charts as SVG, whose colours are the page's: `currentColor`, and the variables of `infra.report.html`."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

LABEL_PX, PLOT_PX, TOP_PX, FOOT_PX = 170, 560, 8, 34
"""Width of the names of rows, width of the plot, and heights above and below it."""
WIDTH_PX = LABEL_PX + PLOT_PX + 70
_TICKS = 5


@dataclass(frozen=True, slots=True)
class Axis:
    """Values from left to right."""

    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Axis":
        """Return an axis that holds all values, with some air."""
        values = list(values)
        low, high = min(values), max(values)
        air = 0.06 * (high - low) or 0.05
        return cls(low - air, high + air)

    @property
    def ticks(self) -> list[float]:
        """Round values that are labelled."""
        rough = (self.high - self.low) / _TICKS
        size = 10.0 ** math.floor(math.log10(rough))
        step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
        return [step * number for number in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]

    def share(self, value: float) -> float:
        """Return the place of a value on the axis, 0 to 1."""
        return (value - self.low) / (self.high - self.low)

    def x(self, value: float) -> float:
        """Return the place of a value in pixels."""
        return LABEL_PX + PLOT_PX * self.share(value)


def round_tick(tick: float) -> str:
    """Return the value of a tick in a few digits."""
    return f"{round(tick, 6):g}"


def vertical_lines(axis: Axis, height: float) -> Iterable[str]:
    """Draw a line with its value below it at each tick."""
    for tick in axis.ticks:
        x = axis.x(tick)
        yield f'<line x1="{x:.1f}" y1="{TOP_PX}" x2="{x:.1f}" y2="{height}" stroke="var(--line)"/>'
        yield text(x, height + 16, round_tick(tick), "middle", "var(--soft)")


def text(x: float, y: float, words: str, anchor: str = "start", colour: str = "currentColor") -> str:
    """Draw a line of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(words)}</text>'


def drawing(title: str, parts: Iterable[str], width: float, height: float) -> str:
    """Return the drawing of `parts`, with a title for readers who cannot see it."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="12"><title>{escape(title)}</title>{"".join(parts)}</svg>'
    )
