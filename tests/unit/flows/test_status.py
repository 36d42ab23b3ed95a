"""The table of `status` lists optional folders where they exist or settings ask for them."""

from pathlib import Path

import pytest

from flows.status import progress_table
from labeling.audit import audit
from labeling.config import CleanConfig, LabelingConfig
from labeling.execution.record import record_run
from tests.datasets import dataset_of_two, write_confirmations
from tests.factories import key


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return dataset_of_two(tmp_path / "sdd")


def table(root: Path) -> str:
    return progress_table(audit(str(root)))


def test_optional_folders_without_files_are_left_out(root: Path) -> None:
    assert table(root).splitlines()[-1].startswith("| ledger | 2 of 2 |")


def test_an_optional_folder_with_files_shows_its_progress(root: Path) -> None:
    write_confirmations(root, {key(21): (0.8,), key(22): (0.9, 0.3), key(23): (0.0,)})
    assert table(root).endswith("\n| confirmations | 1 of 2 | 3 |  |  |  |  |")


def test_optional_folders_of_the_last_settings_are_shown_before_they_exist(root: Path) -> None:
    with record_run(LabelingConfig(root=str(root), clean=CleanConfig(near_duplicate_cosine=0.95)), [], shards=2):
        pass
    last = [line.split(" | ")[:2] for line in table(root).splitlines()[-2:]]
    assert last == [["| embeddings", "0 of 2"], ["| similar", "0 of 2"]]
