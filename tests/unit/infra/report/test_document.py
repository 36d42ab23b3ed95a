import json
import re
from html import unescape

from infra.report.document import (
    AnnotatedGallery,
    AnnotatedImage,
    Chart,
    Document,
    Gallery,
    Paragraph,
    Picture,
    Section,
    Table,
)
from infra.report.html import to_html
from infra.report.markdown import to_markdown

DOCUMENT = Document(
    "Title <&>",
    [
        Section(
            "Part",
            [
                Paragraph("A <b> paragraph"),
                Table("Caption", ("Name", "Value"), (("a|b", "<1>"),), ("A note",)),
                Chart("<svg><title>t</title></svg>", Table("Chart", ("Name", "Value"), (("c", "2"),))),
                Gallery(
                    "Pictures",
                    (("Row", (Picture("x/0", b"RIFF", "0.5", "Image x/0"), Picture("y", b"", "", "y: missing"))),),
                ),
            ],
        )
    ],
)


ANNOTATED = Document(
    "Title",
    [
        Section(
            "Images",
            [
                AnnotatedGallery(
                    "Kept",
                    (
                        AnnotatedImage(
                            Picture("a", b"RIFF", "a <dog>", "alt"),
                            40,
                            30,
                            "<rect/>",
                            {"label": ('"dog"', "cat")},
                            ("x",),
                        ),
                        AnnotatedImage(Picture("b", b"", "", "none"), 40, 30, "", {"label": ("cat",)}),
                    ),
                )
            ],
        )
    ],
)


def test_an_annotated_gallery_has_a_filter_for_each_facet_and_a_script() -> None:
    page = to_html(ANNOTATED)
    assert re.findall(r'<option value="([^"]*)">([^<]*)</option>', page) == [
        ("", "all"),
        ("cat", "cat (2)"),
        ("&quot;dog&quot;", "&quot;dog&quot; (1)"),
    ]
    assert [json.loads(unescape(one)) for one in re.findall(r'data-facets="([^"]*)"', page)] == [
        {"label": ['"dog"', "cat"]},
        {"label": ["cat"]},
    ]
    assert '<svg viewBox="0 0 40 30" preserveAspectRatio="none" aria-hidden="true"><rect/></svg>' in page
    assert page.count("<svg") == 1, "nothing is drawn over an image without annotations"
    assert "a &lt;dog&gt;<small>x</small>" in page
    assert page.count("<script>") == 1
    assert "<script" not in to_html(DOCUMENT)
    assert "- `a` a <dog>\n- `b`" in to_markdown(ANNOTATED)


def test_markdown_holds_tables_for_charts_and_names_for_pictures() -> None:
    text = to_markdown(DOCUMENT)
    assert text.startswith("# Title <&>\n\n## Part\n\nA <b> paragraph\n\n**Caption**\n\n| Name | Value |\n|---|---|\n")
    assert "| a\\|b | <1> |" in text
    assert "| c | 2 |" in text
    assert "- Row: `x/0` 0.5, `y`" in text


def test_html_is_escaped_and_has_captions_headings_and_alternative_texts() -> None:
    page = to_html(DOCUMENT)
    assert "Title &lt;&amp;&gt;" in page
    assert "A &lt;b&gt; paragraph" in page
    assert "<caption>Caption</caption>" in page
    assert '<th scope="col">Name</th>' in page
    assert '<th scope="row">a|b</th><td>&lt;1&gt;</td>' in page
    assert re.search(r'<img src="data:image/webp;base64,UklGRg==" alt="Image x/0">', page)
    assert 'role="img" aria-label="y: missing"' in page
    assert "<svg><title>t</title></svg>" in page
