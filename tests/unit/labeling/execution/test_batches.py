"""Rows are grouped into batches of equal keys within a window, and their outcomes come back in their order."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labeling.execution import batches
from labeling.execution.batches import Batcher, OutcomeOrder
from tests.factories import key


@dataclass(frozen=True)
class Row:
    key: bytes
    kind: int
    image: bytes = b"-"


def rows(kinds: list[int]) -> list[Row]:
    return [Row(key(number), kind) for number, kind in enumerate(kinds)]


def batched(kinds: list[int], limit: int = 4, by_kind: bool = True) -> list[list[int]]:
    """The kinds of the rows of each batch."""
    batcher = Batcher((lambda row: row.kind) if by_kind else None, lambda: limit)
    made = [batch for row in rows(kinds) for batch in batcher.add(row)] + list(batcher.rest())
    assert sorted(row.key for batch in made for row in batch) == [row.key for row in rows(kinds)]
    return [[row.kind for row in batch] for batch in made]


def test_rows_of_a_kind_wait_for_each_other():
    assert batched([1, 2, 1, 1, 2, 1, 2, 2, 2]) == [[1, 1, 1, 1], [2, 2, 2, 2], [2]]


def test_without_a_key_the_batches_are_neighbours():
    assert batched([1, 2, 1, 1, 2, 1], by_kind=False) == [[1, 2, 1, 1], [2, 1]]


def test_small_groups_share_the_last_batches_and_are_not_cut():
    assert batched([1, 2, 2, 3, 3, 3, 4]) == [[1, 2, 2], [3, 3, 3, 4]]


def test_the_window_is_bounded_by_the_size_of_its_images(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(batches, "WINDOW_BYTES", 3)
    assert batched([1, 2, 2, 3, 4, 4]) == [[2, 2], [4, 4], [1, 3]]


@given(kinds=st.lists(st.integers(0, 5), max_size=60), limit=st.integers(1, 8))
def test_no_batch_is_larger_than_the_limit_and_full_ones_are_of_a_kind(kinds: list[int], limit: int):
    made = batched(kinds, limit)
    assert all(0 < len(batch) <= limit for batch in made)
    groups = sum(len(set(batch)) for batch in made)
    assert groups == sum(-(-kinds.count(kind) // limit) for kind in set(kinds)), "a group was cut"


@given(st.permutations(range(12)))
def test_outcomes_come_back_in_the_order_of_the_rows(order: list[int]):
    outcomes = OutcomeOrder()
    for row in rows([0] * 12):
        outcomes.expect(row)
    given_back = [row for number in order for row in outcomes.add(Row(key(number), 0))]
    assert [row.key for row in given_back] == [key(number) for number in range(12)]


def test_an_outcome_comes_as_soon_as_those_before_it_are_there():
    outcomes = OutcomeOrder()
    first, second, third = rows([0, 0, 0])
    for row in (first, second, third):
        outcomes.expect(row)
    assert list(outcomes.add(second)) == []
    assert list(outcomes.add(first)) == [first, second]
    assert list(outcomes.add(third)) == [third]
