"""A report as Markdown. Drawings become tables; images are named."""

from collections.abc import Iterator

from infra.report.document import AnnotatedGallery, Block, Chart, Document, Gallery, Paragraph, Table


def to_markdown(document: Document) -> str:
    """Return the report as Markdown."""
    parts = [f"# {document.title}"]
    for section in document.sections:
        parts.append(f"## {section.title}")
        parts += [part for block in section.blocks for part in _block(block)]
    return "\n\n".join(parts) + "\n"


def _block(block: Block) -> Iterator[str]:
    match block:
        case Paragraph():
            yield block.text
        case Table():
            yield from _table(block)
        case Chart():
            yield from _table(block.table)
        case Gallery():
            yield f"**{block.caption}**"
            lines = (
                f"- {label}: " + ", ".join(f"`{one.name}` {one.caption}".strip() for one in pictures)
                for label, pictures in block.rows
            )
            yield "\n".join(lines)
        case AnnotatedGallery():
            yield f"**{block.caption}**"
            yield "\n".join(f"- `{one.picture.name}` {one.picture.caption}".rstrip() for one in block.images)


def _table(table: Table) -> Iterator[str]:
    yield f"**{table.caption}**"
    lines = [_row(table.headings), "|" + "---|" * len(table.headings), *map(_row, table.rows)]
    yield "\n".join(lines)
    yield from table.notes


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
