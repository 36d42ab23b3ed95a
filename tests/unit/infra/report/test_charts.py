import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from infra.report.charts import Range, bar_chart, column_chart, range_chart
from infra.report.cloud import word_cloud
from infra.report.matrix import matrix_chart

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


def test_bars_and_columns_have_lengths_in_proportion() -> None:
    bars = parts(bar_chart("Bars", [("a<b", 4.0, "four"), ("c", 1.0, "one"), ("d", 0.0, "none")]), "rect")
    assert [float(bar.attrib["width"]) for bar in bars] == pytest.approx([560.0, 140.0, 0.0])
    columns = parts(column_chart("Columns", [("0", 5), ("1", 10), ("2", 0)], "number"), "rect")
    assert [float(column.attrib["height"]) for column in columns] == pytest.approx([75.0, 150.0, 0.0])
    assert parts(column_chart("Empty", [("0", 0)], "number"), "rect")[0].attrib["height"] == "0.0"


def test_names_below_many_columns_leave_room_for_each_other() -> None:
    names = {text.text for text in parts(column_chart("Many", [(str(n), 1) for n in range(60)], "number"), "text")}
    assert {"0", "3", "57"} <= names
    assert not {"2", "4", "58"} & names


def test_frequent_words_of_a_cloud_are_larger_and_no_words_overlap() -> None:
    words = [(f"word{n}" * (1 + n % 3), 400 // (n + 1)) for n in range(60)]
    texts = parts(word_cloud("Cloud", words), "text")
    sizes = {text.text: int(text.attrib["font-size"]) for text in texts}
    assert sizes["word0"] == 44
    assert sorted(sizes.values(), reverse=True) == [sizes[word] for word, _ in words]
    lines: dict[str, list[tuple[float, float]]] = {}
    for text in texts:
        left = float(text.attrib["x"])
        lines.setdefault(text.attrib["y"], []).append((left, left + float(text.attrib["textLength"])))
    for line in lines.values():
        ends = sorted(line)
        assert all(end <= begin for (_, end), (begin, _) in pairwise(ends))
        assert ends[0][0] >= 0
        assert ends[-1][1] <= 800


def test_cells_of_a_matrix_are_symmetric_and_the_largest_is_darkest() -> None:
    cells = parts(matrix_chart("Matrix", ["a", "b", "c"], {("a", "b"): 4, ("b", "c"): 1}), "rect")
    shades = [float(cell.attrib["fill-opacity"]) for cell in cells]
    assert shades[1] == shades[3] == 1.0
    assert shades[5] == shades[7] == pytest.approx(0.28)
    assert shades[0] == pytest.approx(0.04)
