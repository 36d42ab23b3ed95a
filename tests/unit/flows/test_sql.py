"""Output of `inspect`: tables, CSV and JSON, for statements from arguments, pipes and the prompt."""

import contextlib
import csv
import io
import json
import os
import pty
import select
import signal
import sys
from pathlib import Path
from typing import Self

import pytest
from typer.testing import CliRunner

from flows.cli import app
from tests.factories import entity, finished, image, key, sdd_row
from tests.processes import PATIENCE_S, kill_family

ROOT = Path(__file__).parents[3]
COUNT = 45


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> str:
    root = tmp_path_factory.mktemp("sdd")
    finished(root, [sdd_row(n, [entity((8, 8, 32, 40))], encoded=image(1).image) for n in range(1, COUNT + 1)])
    return str(root)


def inspect(dataset: str, *words: str, stdin: str | None = None) -> str:
    done = CliRunner().invoke(app, ["inspect", dataset, *words], input=stdin)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_table_has_40_rows_unless_asked_for_more(dataset):
    assert inspect(dataset, "SELECT caption FROM sdd").count("number") == 40
    assert inspect(dataset, "SELECT caption FROM sdd", "--rows", "0").count("number") == COUNT
    assert inspect(dataset, "SELECT caption FROM sdd", "--rows", "3").count("number") == 3
    done = CliRunner().invoke(app, ["inspect", dataset, "SELECT caption FROM sdd", "--rows", "3"])
    assert done.stderr == "the first 3 rows; --rows 0 prints all\n"
    assert CliRunner().invoke(app, ["inspect", dataset, "FROM labels", "--rows", "1"]).stderr == ""


def test_columns_are_cut_where_asked(dataset):
    table = inspect(dataset, "SELECT key, caption, url FROM sdd LIMIT 1", "--columns", "2")
    assert "caption" in table
    assert "url" not in table
    assert inspect(dataset, "SELECT 1 AS a, 2 AS a, 3 AS b", "--columns", "2", "--csv") == "a,a\n1,2\n"


def test_nothing_is_cut_in_a_pipe(dataset):
    table = inspect(dataset, "SELECT repeat('wide ', 100) AS wide, * FROM sdd LIMIT 1")
    assert "wide " * 100 in table
    assert "perceptual_hash" in table
    assert "…" not in table
    assert "\x1b" not in table


@pytest.mark.parametrize("form", [(), ("--csv",), ("--json",)])
def test_keys_are_hexadecimal(dataset, form):
    text = inspect(dataset, "SELECT key, sha256 FROM sdd ORDER BY key LIMIT 1", *form)
    assert key(1).hex().upper() in text
    assert image(1).sha256.hex().upper() in text
    assert "\\x" not in text


def test_a_key_that_was_printed_finds_its_image(dataset):
    ((printed,),) = list(csv.reader(io.StringIO(inspect(dataset, "SELECT max(key) FROM sdd", "--csv"))))[1:]
    assert inspect(dataset, f"SELECT url FROM sdd WHERE key = from_hex('{printed}')", "--csv").split() == [
        "url",
        image(COUNT).url,
    ]


def test_images_are_named_by_their_size_in_a_table_and_whole_elsewhere(dataset):
    encoded = image(1).image
    assert f"<{len(encoded):,} bytes>" in inspect(dataset, "SELECT image FROM sdd LIMIT 1")
    (row,) = json.loads(inspect(dataset, "SELECT image FROM sdd LIMIT 1", "--json"))
    assert bytes.fromhex(row["image"]) == encoded


def test_csv_and_json_hold_all_rows(dataset):
    rows = list(csv.DictReader(io.StringIO(inspect(dataset, "SELECT key, caption, NULL AS n FROM sdd", "--csv"))))
    assert [row["key"] for row in rows] == [key(n).hex().upper() for n in range(1, COUNT + 1)]
    assert rows[0] == {"key": rows[0]["key"], "caption": "a dog and a cat and a bird, number 1", "n": ""}
    records = json.loads(inspect(dataset, "SELECT key, entities, NULL AS n FROM sdd", "--json"))
    assert [record["key"] for record in records] == [row["key"] for row in rows]
    assert records[0]["entities"][0]["label"] == "dog"
    assert records[0]["n"] is None
    assert json.loads(inspect(dataset, "FROM sdd LIMIT 0", "--json")) == []
    assert len(json.loads(inspect(dataset, "FROM sdd", "--json", "--rows", "2", "--columns", "2"))) == 2


def test_csv_and_json_exclude_each_other(dataset):
    done = CliRunner().invoke(app, ["inspect", dataset, "FROM labels", "--csv", "--json"])
    assert done.exit_code == 2
    assert "one of --csv and --json" in done.stderr


@pytest.mark.parametrize("stdin", [False, True])
def test_statements_run_in_turn(dataset, stdin):
    sql = "SET VARIABLE n = 2; SELECT getvariable('n') + 1 AS a; -- and\nSELECT ';' AS b;"
    out = inspect(dataset, "--csv", stdin=sql) if stdin else inspect(dataset, sql, "--csv")
    assert out == "a\n3\nb\n;\n"


@pytest.mark.parametrize(
    ("sql", "first"),
    [("SELECT 1 AS a; FROM nowhere; SELECT 2", "a\n1\n"), ("SELECT 1 AS a; SELEC 2", "")],
)
def test_the_first_fault_ends_them(dataset, sql, first):
    done = CliRunner().invoke(app, ["inspect", dataset, sql, "--csv"])
    assert (done.exit_code, done.stdout) == (2, first)
    assert done.stderr.startswith("error: ")


@pytest.mark.parametrize("form", [(), ("--csv",), ("--json",)])
@pytest.mark.parametrize(
    "sql",
    [
        "PRAGMA version",
        "DESCRIBE labels",
        "SUMMARIZE labels",
        "SHOW TABLES",
        "CALL pragma_version()",
        "EXPLAIN FROM labels",
        "PIVOT labels ON label USING sum(images)",
        "VALUES (1)",
        "WITH a AS (SELECT 1) FROM a -- all",
    ],
)
def test_every_kind_of_result_is_printed(dataset, sql, form):
    assert len(inspect(dataset, sql, *form)) > 1


class Terminal:
    """Terminal in which `inspect` runs with its prompt. Type only after the prompt has appeared."""

    def __init__(self, dataset: str, state: Path) -> None:
        self.shown = b""
        self.pid, self.terminal = pty.fork()
        if not self.pid:
            os.environ |= {"PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(state), "TERM": "dumb"}
            signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests may run with it ignored
            os.execv(sys.executable, [sys.executable, "-m", "flows.cli", "inspect", dataset, "--columns", "1"])

    def type(self, keys: str, until: str = "sdd> ") -> str:
        """Press these keys and return the output up to this text."""
        os.write(self.terminal, keys.encode())
        return self.until(until)

    def until(self, text: str) -> str:
        """Return the output up to this text."""
        while text.encode() not in self.shown:
            assert select.select([self.terminal], [], [], PATIENCE_S)[0], self.shown
            self.shown += os.read(self.terminal, 1024)
        before, _, self.shown = self.shown.partition(text.encode())
        return before.decode()

    def leave(self) -> None:
        """Press Ctrl-D and wait for the end."""
        with contextlib.suppress(OSError):  # raised when the program has ended
            self.type("\x04", until="more")

    def __enter__(self) -> Self:
        self.until("sdd> ")
        return self

    def __exit__(self, *_: object) -> None:
        kill_family(self.pid)
        os.waitpid(self.pid, 0)
        os.close(self.terminal)


def test_the_prompt_goes_on_after_errors_and_interrupts_and_remembers_lines(dataset, tmp_path):
    with Terminal(dataset, tmp_path) as terminal:
        shown = terminal.type("SELECT 6 * 7 AS answer; SELECT 1 + 1 AS two\n")
        assert "42" in shown
        assert "two  " in shown
        assert "error: Parser Error" in terminal.type("selec\n")
        terminal.type("SELECT 'be' || 'gun'; SELECT sum(i % 7) FROM range(1000000000000) n(i)\n", until="begun")
        assert "interrupted" in terminal.type("\x03")
        terminal.leave()
    with Terminal(dataset, tmp_path) as terminal:
        terminal.type("\x1b[A\x1b[A\x1b[A\n", until="42 │")  # the third line before
