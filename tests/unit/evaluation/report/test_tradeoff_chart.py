import re
from xml.etree import ElementTree

from evaluation.report.tradeoff_chart import tradeoff_chart
from evaluation.scores.tradeoff import Point

SVG = "{http://www.w3.org/2000/svg}"


def parts(svg: str, tag: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(svg).iter(f"{SVG}{tag}"))


def test_the_chart_has_a_title_and_the_colours_of_the_page() -> None:
    svg = tradeoff_chart("A title", [Point("a", 0.3, 0.6)], "CLIP-T", "DINO")
    assert [title.text for title in parts(svg, "title")] == ["A title"]
    assert re.findall(r"#[0-9a-f]{3,6}\b", svg) == []


def test_the_line_of_a_trade_off_joins_the_settings_that_no_other_beats() -> None:
    points = [Point("a", 0.3, 0.5), Point("b", 0.2, 0.7), Point("beaten", 0.2, 0.4)]
    svg = tradeoff_chart("Trade-off", points, "CLIP-T", "DINO")
    (line,) = parts(svg, "polyline")
    circles = {f"{float(c.attrib['cx']):.1f},{float(c.attrib['cy']):.1f}" for c in parts(svg, "circle")}
    assert len(line.attrib["points"].split()) == 2
    assert set(line.attrib["points"].split()) < circles
