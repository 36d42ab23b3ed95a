"""`subject-diffusion settings`: every setting, as text and as Markdown."""

from typer.testing import CliRunner

from flows.cli import app
from flows.settings import find_tables
from infra.config import TABLES


def printed(*arguments):
    return CliRunner().invoke(app, ["settings", *arguments])


def test_every_top_level_table_is_listed():
    assert {table.name.split(".")[0] for table in find_tables(None)} == TABLES


def test_a_table_is_printed_with_the_tables_inside_it_and_no_other():
    result = printed("labeling.segment")
    assert result.exit_code == 0
    assert [line for line in result.output.splitlines() if line.startswith("[")] == [
        "[labeling.segment]",
        "[labeling.segment.floor]",
    ]
    assert 'backend = "sam_hf"    # choice' in result.output


def test_a_setting_without_a_default_says_so():
    assert "root = (required)" in printed("labeling").output


def test_an_unknown_table_is_refused_with_the_tables_there_are():
    result = printed("labelling")
    assert result.exit_code == 2
    assert "labeling.download" in result.output


def test_the_rows_of_the_reference_page_have_four_cells():
    rows = [line for line in printed("--markdown").output.splitlines() if line.startswith("| ")]
    assert len(rows) > 100
    assert [row for row in rows if row.replace("\\|", "").count("|") != 5] == []
