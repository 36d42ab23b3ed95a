"""The settings tree as text for a terminal and as Markdown for the reference."""

import textwrap
from collections.abc import Iterator

from flows.experiment import DemoExperiment
from infra.config import SettingsError
from infra.settings_tree import Setting, Table, tables

_WIDTH = 100
_INTRODUCTION = """\
A settings file is TOML and states only what differs from these defaults; `extends = "paper"` names the file that it
differs from. `--config NAME` reads a file of `infra/configs`; `--set table.key=value` overrides one setting on the
command line. `subject-diffusion settings [TABLE]` prints this list.

*(required)* marks a setting without a default, *unset* an optional one."""


def settings_text(name: str | None = None) -> str:
    """Return the settings of table `name` and of the tables inside it, or of all tables, for a terminal.

    Raises:
        SettingsError: the table does not exist; the message lists all tables.
    """
    return "\n\n".join("\n".join(_table_lines(table)) for table in find_tables(name))


def settings_markdown() -> str:
    """Return the reference page of all settings, one heading per table."""
    return "\n\n".join(["# Settings", _INTRODUCTION, *(p for t in find_tables(None) for p in _table_paragraphs(t))])


def find_tables(name: str | None) -> list[Table]:
    """Return table `name` and the tables inside it, or all tables for None.

    Raises:
        SettingsError: the table does not exist; the message lists all tables.
    """
    known = list(tables(DemoExperiment))
    chosen = [t for t in known if name is None or t.name == name or t.name.startswith(f"{name}.")]
    if not chosen:
        raise SettingsError(f"unknown table {name!r}; there are {', '.join(t.name for t in known)}")
    return chosen


def _table_lines(table: Table) -> Iterator[str]:
    yield f"[{table.name}]"
    if table.help:
        yield from _indent(table.help, "# ", width=_WIDTH)
    for setting in table.settings:
        yield f"{setting.name.removeprefix(table.name + '.')} = {_default_text(setting)}    # {setting.type}"
        if setting.help:
            yield from _indent(setting.help, "    ", width=_WIDTH)
        for value, meaning in setting.choices:
            yield from _indent(f'"{value}": {meaning}' if meaning else f'"{value}"', "      ", width=_WIDTH)


def _default_text(setting: Setting) -> str:
    return "(required)" if setting.default is None else setting.default


def _indent(text: str, prefix: str, width: int) -> Iterator[str]:
    for paragraph in text.split("\n\n"):
        yield from textwrap.wrap(paragraph, width, initial_indent=prefix, subsequent_indent=prefix)


def _table_paragraphs(table: Table) -> Iterator[str]:
    yield f"## `{table.name}`"
    if table.help:
        yield table.help
    if table.settings:
        rows = ["| setting | default | type | what it does |", "|---|---|---|---|"]
        yield "\n".join([*rows, *(_markdown_row(table, setting) for setting in table.settings)])


def _markdown_row(table: Table, setting: Setting) -> str:
    choices = "".join(f"<br>`{value}`{': ' if meaning else ''}{meaning}" for value, meaning in setting.choices)
    help_ = setting.help.replace("\n\n", "<br>")
    cells = (
        f"`{setting.name.removeprefix(table.name + '.')}`",
        f"`{_default_text(setting)}`",
        setting.type,
        help_ + choices,
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
