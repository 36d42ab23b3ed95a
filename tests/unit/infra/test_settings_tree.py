"""Rows of a settings tree: names, kinds, bounds, defaults and explanations."""

import tomllib
from enum import StrEnum

from pydantic import Field, PositiveInt

from infra.config import Config
from infra.settings_tree import tables


class Colour(StrEnum):
    RED = "red"
    """Like a tomato."""
    BLUE = "blue"


class Pool(Config):
    """How many workers there are."""

    count: PositiveInt = 1
    """Number of
    processes."""
    share: float = Field(default=0.5, ge=0, le=1)


class Inner(Config):
    pool: Pool = Pool(count=8)
    colour: Colour = Colour.RED
    names: tuple[str, ...] = ("a", "b")
    words: dict[str, str] = Field(default={"a": "b", "c": "d"})
    limit: PositiveInt | None = None


class Root(Config):
    inner: Inner = Inner()
    optional: Pool | None = None
    needed: Pool


ROWS = {setting.name: setting for table in tables(Root) for setting in table.settings}


def test_tables_come_in_the_order_of_their_fields_each_before_those_inside_it():
    assert [table.name for table in tables(Root)] == ["inner", "inner.pool", "optional", "needed"]
    assert [table.help for table in tables(Root)][1:] == ["How many workers there are."] * 3


def test_a_table_s_own_default_is_shown_and_not_that_of_its_class():
    assert ROWS["inner.pool.count"].default == "8"
    assert ROWS["needed.count"].default == "1"


def test_types_name_their_bounds_and_defaults_are_toml():
    assert (ROWS["needed.share"].type, ROWS["needed.share"].default) == ("float ≥ 0, ≤ 1", "0.5")
    assert (ROWS["inner.limit"].type, ROWS["inner.limit"].default) == ("int > 0 or unset", "unset")
    assert (ROWS["inner.names"].type, ROWS["inner.names"].default) == ("list of string", '["a", "b"]')
    words = ROWS["inner.words"]
    assert (words.type, tomllib.loads(f"words = {words.default}")) == ("table of string", {"words": Inner().words})
    assert (ROWS["inner.colour"].type, ROWS["inner.colour"].default) == ("choice", '"red"')


def test_a_choice_lists_its_values_with_their_explanations():
    assert ROWS["inner.colour"].choices == (("red", "Like a tomato."), ("blue", ""))


def test_an_explanation_is_one_line_per_paragraph():
    assert ROWS["needed.count"].help == "Number of processes."


def test_a_setting_without_a_default_is_marked():
    class Job(Config):
        out: str

    class Tree(Config):
        job: Job

    [table] = tables(Tree)
    assert table.settings[0].default is None
