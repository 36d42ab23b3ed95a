import re
from xml.etree import ElementTree

import pytest

from infra.report.charts import Range, range_chart

SVG = "{http://www.w3.org/2000/svg}"


def parts(svg: str, tag: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(svg).iter(f"{SVG}{tag}"))


def test_values_lie_on_the_scale_of_the_ticks() -> None:
    svg = range_chart("Scores", [Range("a<b", 0.5, 0.4, 0.7), Range("c", 0.6, 0.6, 0.6)], [("real", 0.55)])
    labels = {
        text.text: float(text.attrib["x"]) for text in parts(svg, "text") if re.fullmatch(r"0\.\d+", text.text or "")
    }
    ticks = {float(text): x for text, x in labels.items() if text in ("0.4", "0.5", "0.6")}
    first, second = (float(circle.attrib["cx"]) for circle in parts(svg, "circle"))
    assert first == pytest.approx(ticks[0.5], abs=0.2)
    assert second == pytest.approx(ticks[0.6], abs=0.2)
    (mark,) = [line for line in parts(svg, "line") if "stroke-dasharray" in line.attrib]
    assert float(mark.attrib["x1"]) == pytest.approx((first + second) / 2, abs=0.2)


def test_charts_have_titles_and_the_colours_of_the_page() -> None:
    svg = range_chart("A title", [Range("a", 0.5, 0.5, 0.5)])
    assert [title.text for title in parts(svg, "title")] == ["A title"]
    assert re.findall(r"#[0-9a-f]{3,6}\b", svg) == []
