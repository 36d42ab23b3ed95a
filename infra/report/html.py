"""A report as one HTML page without outside resources, readable in light and dark.

Only a page with an `AnnotatedGallery` has a script, which filters its images.
"""

from collections.abc import Iterable, Iterator
from html import escape

from infra.report.annotated_gallery import GALLERY_SCRIPT, GALLERY_STYLE, annotated_gallery
from infra.report.document import AnnotatedGallery, Block, Chart, Document, Gallery, Paragraph, Picture, Table
from infra.report.image_element import image_element

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1d21; --soft: #5d616b; --paper: #fff; --line: #d9dbe1; --band: #f4f5f8;
  --mark: #0b66c3; --aside: #a8590a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e9ee; --soft: #a4a9b6; --paper: #15161a; --line: #363943;
  --band: #1e2026; --mark: #6bb2ff; --aside: #f0a95b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 72rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; padding-top: 1rem; border-top: 1px solid var(--line); }
p { max-width: 46rem; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption, figcaption.title, summary { text-align: left; font-weight: 600; padding-bottom: .4rem; }
caption { caption-side: top; }
th, td { padding: .3rem .9rem .3rem .3rem; text-align: left; vertical-align: top; }
tr { border-bottom: 1px solid var(--line); }
thead th { color: var(--soft); font-weight: 600; }
tbody th { font-weight: 500; }
caption, th, td { white-space: nowrap; }
td:last-child { white-space: normal; }
tbody tr:nth-child(odd) { background: var(--band); }
.note { color: var(--soft); font-size: .85rem; margin: .2rem 0; }
figure { margin: 1.25rem 0; }
svg { max-width: 100%; height: auto; }
.row { display: flex; flex-wrap: wrap; gap: .5rem; margin: 0 0 .9rem; align-items: flex-start; }
.row > .label { flex: 0 0 9rem; font-size: .85rem; color: var(--soft); overflow-wrap: anywhere; }
.row figure { margin: 0; width: 6.5rem; }
.row img, .row .none { display: block; width: 6.5rem; height: 6.5rem; object-fit: contain; background: var(--band);
  border: 1px solid var(--line); border-radius: 4px; }
.row figcaption { font-size: .72rem; line-height: 1.3; color: var(--soft); overflow-wrap: anywhere; }
details { margin: .5rem 0 1rem; }
summary { cursor: pointer; }
"""


def to_html(document: Document) -> str:
    """Return the report as an HTML page."""
    sections = "\n".join(
        f"<section>\n<h2>{escape(section.title)}</h2>\n{''.join(_joined(section.blocks))}</section>"
        for section in document.sections
    )
    title = escape(document.title)
    filtered = any(isinstance(block, AnnotatedGallery) for section in document.sections for block in section.blocks)
    style, script = (_STYLE + GALLERY_STYLE, GALLERY_SCRIPT) if filtered else (_STYLE, "")
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{style}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n{sections}\n</main>\n{script}</body>\n</html>\n"
    )


def _joined(blocks: Iterable[Block]) -> Iterator[str]:
    for block in blocks:
        yield from _block(block)


def _block(block: Block) -> Iterator[str]:
    match block:
        case Paragraph():
            yield f"<p>{escape(block.text)}</p>\n"
        case Table():
            yield from _table(block)
        case Chart():
            yield f'<figure><figcaption class="title">{escape(block.table.caption)}</figcaption>{block.svg}</figure>\n'
            yield "<details><summary>Numbers of the chart</summary>"
            yield from _table(block.table)
            yield "</details>\n"
        case Gallery():
            yield f'<figure><figcaption class="title">{escape(block.caption)}</figcaption>\n'
            for label, pictures in block.rows:
                shown = "".join(map(_picture, pictures))
                yield f'<div class="row"><div class="label">{escape(label)}</div>{shown}</div>\n'
            yield "</figure>\n"
        case AnnotatedGallery():
            yield from annotated_gallery(block)


def _table(table: Table) -> Iterator[str]:
    headings = "".join(f'<th scope="col">{escape(one)}</th>' for one in table.headings)
    yield f'<div class="scroll"><table><caption>{escape(table.caption)}</caption>\n<thead><tr>{headings}</tr></thead>\n'
    yield "<tbody>\n"
    for name, *cells in table.rows:
        yield f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>\n'
    yield "</tbody></table>\n"
    yield from (f'<p class="note">{escape(note)}</p>\n' for note in table.notes)
    yield "</div>\n"


def _picture(picture: Picture) -> str:
    image = image_element(picture)
    caption = " ".join(filter(None, (picture.name, picture.caption)))
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"
