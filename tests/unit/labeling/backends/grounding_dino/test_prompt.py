"""No noun is lost between a list of labels and the tokens that the network reads."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertTokenizer

from labeling.backends.grounding_dino.prompt import NO_LABEL, Prompt, PromptWriter, collate
from labeling.errors import BackendWeightsError
from miniature.networks.vocabulary import detection_vocabulary

PIECES = ("fire", "hydrant", "##s", "dog", "st", "bernard", "a", "b", "##a", "##b")
CLS, SEP, STOP = 101, 102, 1012


def bert() -> BertTokenizer:
    """A word-piece tokenizer with BERT's ids."""
    ids = detection_vocabulary([]).ids
    return BertTokenizer(vocab=ids | {piece: len(ids) + i for i, piece in enumerate(PIECES)})


def words(prompt: Prompt, label: int) -> list[str]:
    own = [token for token, owner in zip(prompt.token_ids, prompt.owners, strict=True) if owner == label]
    return bert().convert_ids_to_tokens(own)


def test_a_prompt_is_what_the_tokenizer_makes_of_the_sentence() -> None:
    (prompt,) = PromptWriter(bert(), 256).write(["fire hydrants", "dog", "bernard"])
    assert list(prompt.token_ids) == bert()("fire hydrants. dog. bernard.")["input_ids"]


def test_each_token_knows_its_noun() -> None:
    (prompt,) = PromptWriter(bert(), 256).write(["dog", "fire hydrants"])
    assert words(prompt, 0) == ["dog"]
    assert words(prompt, 1) == ["fire", "hydrant", "##s"]
    assert words(prompt, NO_LABEL) == ["[CLS]", ".", ".", "[SEP]"]


@pytest.mark.parametrize("count", [60, 300])
def test_many_nouns_are_split_over_prompts_and_none_is_lost(count: int) -> None:
    labels = ["fire hydrants"] * count
    prompts = PromptWriter(bert(), 256).write(labels)
    assert max(len(p.token_ids) for p in prompts) <= 256
    assert [label for p in prompts for label in sorted(set(p.owners) - {NO_LABEL})] == list(range(count))
    assert all(words(p, label) == ["fire", "hydrant", "##s"] for p in prompts for label in set(p.owners) - {NO_LABEL})
    assert len(prompts) == -(-count // ((256 - 2) // 4))


@given(st.lists(st.text("ab ", min_size=1, max_size=30).filter(str.strip), max_size=12), st.integers(8, 40))
def test_every_noun_is_whole_or_fills_a_prompt(labels: list[str], limit: int) -> None:
    tokenizer = bert()
    prompts = PromptWriter(tokenizer, limit).write(labels)
    for prompt in prompts:
        assert len(prompt.token_ids) <= limit
        assert (prompt.token_ids[0], *prompt.token_ids[-2:]) == (CLS, STOP, SEP)
    for label, noun in enumerate(labels):
        own = [t for p in prompts for t, owner in zip(p.token_ids, p.owners, strict=True) if owner == label]
        assert own == tokenizer(noun, add_special_tokens=False)["input_ids"][: limit - 3]


def test_a_noun_too_long_for_a_prompt_keeps_what_fits_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        prompts = PromptWriter(bert(), 10).write(["dog", "dog " * 30, "bernard"])
    assert [len(p.token_ids) for p in prompts] == [4, 10, 4]
    assert words(prompts[1], 1) == ["dog"] * 7
    assert "has 30 tokens" in caplog.text


def test_full_stops_and_question_marks_do_not_split_a_noun() -> None:
    (prompt,) = PromptWriter(bert(), 256).write(["st. bernard?"])
    assert words(prompt, 0) == ["st", "bernard"]
    assert prompt.token_ids.count(STOP) == 1


def test_a_noun_without_tokens_is_logged_and_costs_the_others_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        (prompt,) = PromptWriter(bert(), 256).write([".", "dog"])
    assert set(prompt.owners) == {NO_LABEL, 1}
    assert "'.' has 0 tokens" in caplog.text


def test_no_nouns_need_no_prompt() -> None:
    assert PromptWriter(bert(), 256).write([]) == []
    assert PromptWriter(bert(), 256).write(["?"]) == []


def test_capitals_do_not_matter() -> None:
    writer = PromptWriter(detection_vocabulary(["fire hydrant"]).tokenizer(), 64)
    assert writer.write(["Fire Hydrant"]) == writer.write(["fire hydrant"])


def test_a_vocabulary_without_delimiters_is_refused() -> None:
    tokenizer = BertTokenizer(vocab={"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "dog": 4})
    with pytest.raises(BackendWeightsError, match="lacks one of"):
        PromptWriter(tokenizer, 256)


def test_padding_is_masked_and_belongs_to_no_noun() -> None:
    writer = PromptWriter(bert(), 256)
    batch = collate([*writer.write(["dog"]), *writer.write(["fire hydrants", "dog"])])
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 0, 0, 0, 0], [1] * 8]
    assert batch.owners[0].tolist() == [NO_LABEL, 0] + [NO_LABEL] * 6
    assert batch.token_ids[0, 4:].tolist() == [0] * 4
