"""Datasets that training can read, and what a loader needs beside them."""

import numpy as np
import pytest

from model.config import EntityTokens
from model.inputs.prompt import PromptTokenizer, clip_tokenizer
from tests.factories import entity, finished, jpeg, sdd_row

LEFT, RIGHT, MIDDLE = (2, 4, 22, 44), (40, 4, 62, 40), (24, 10, 38, 30)
PLACES = {"dog": LEFT, "cat": MIDDLE, "bird": RIGHT}


def some_rows(count: int):
    """Rows with one to three subjects, in images of 64 x 48."""
    names = np.random.default_rng(0).integers(1, 4, count)
    return [
        sdd_row(n, [entity(box, label=label) for label, box in list(PLACES.items())[:named]], jpeg(n))
        for n, named in enumerate(names)
    ]


@pytest.fixture(scope="session")
def prompts() -> PromptTokenizer:
    return PromptTokenizer(clip_tokenizer(), "<|subject|>", 77, EntityTokens.LABEL_AND_PLACEHOLDER)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> str:
    """103 rows, in two shards of which the first has two row groups."""
    root = tmp_path_factory.mktemp("dataset")
    finished(root, some_rows(103), rows_per_shard=80)
    return str(root)
