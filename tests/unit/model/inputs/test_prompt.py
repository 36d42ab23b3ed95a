"""The template, token by token, with CLIP's own vocabulary."""

import pytest
import torch

from model.config import EntityTokens, TemplateTokens
from model.errors import PromptError
from model.inputs.prompt import Prompt, PromptTokenizer, clip_tokenizer

OWN = "<|subject|>"
THIRD = 1 / 3  # "fire hydrant" is fire, hydr, ant


@pytest.fixture(scope="module")
def prompts() -> PromptTokenizer:
    return PromptTokenizer(clip_tokenizer(), OWN, 77, EntityTokens.LABEL_AND_PLACEHOLDER)


def words(prompts: PromptTokenizer, ids: tuple[int, ...]) -> list[str]:
    return [token.removesuffix("</w>") for token in prompts.tokenizer.convert_ids_to_tokens(list(ids))]


def test_the_vocabulary_is_clips_own():
    open_clip = pytest.importorskip("open_clip")
    text = "A photo of a sks dog's  fire-hydrant, 23 times."
    ids = clip_tokenizer()(text).input_ids
    assert ids == open_clip.tokenize(text)[0][: len(ids)].tolist()


def test_the_template_of_the_paper(prompts):
    one = prompts.tokenize(Prompt("a dog and a cat on grass", ["dog", "cat"]))
    written = f"<|startoftext|> a dog and a cat on grass , the dog is {OWN} , the cat is {OWN} <|endoftext|>"
    assert words(prompts, one.token_ids) == written.split()
    assert one.cut == ""


def test_pieces_make_the_tokens_of_the_whole(prompts):
    one = prompts.tokenize(Prompt("two dogs near a fire-hydrant", ["fire hydrant"]))
    whole = prompts.tokenizer(f"two dogs near a fire-hydrant, the fire hydrant is {OWN}").input_ids
    assert list(one.token_ids) == whole


def test_labels_and_placeholders_are_where_it_says(prompts):
    one = prompts.tokenize(Prompt("on the beach", ["fire hydrant", None, "axolotl"]))
    hydrant, absent, axolotl = one.label_positions
    assert words(prompts, tuple(one.token_ids[at] for at in hydrant)) == ["fire", "hydr", "ant"]
    assert absent == ()
    assert one.placeholder_positions[1] == -1
    assert "".join(words(prompts, tuple(one.token_ids[at] for at in axolotl))) == "axolotl"
    assert len(axolotl) > 1
    assert [one.token_ids[at] for at in (one.placeholder_positions[0], one.placeholder_positions[2])] == [
        prompts.placeholder_id
    ] * 2


def test_without_text_there_is_no_comma(prompts):
    one = prompts.tokenize(Prompt("", ["dog"]))
    assert words(prompts, one.token_ids)[1:-1] == ["the", "dog", "is", OWN]
    assert one.label_positions == ((2,),)


def test_a_prompt_of_200_words_keeps_its_clauses_and_says_what_was_cut(prompts):
    text = " ".join(f"word{number}" for number in range(200))
    one = prompts.tokenize(Prompt(text, ["dog", "fire hydrant"]))
    assert 70 < len(one.token_ids) <= 77
    assert words(prompts, one.token_ids)[-13:] == [
        *[",", "the", "dog", "is", OWN],
        *[",", "the", "fire", "hydr", "ant", "is", OWN],
        "<|endoftext|>",
    ]
    assert text.endswith(one.cut)
    assert one.cut.startswith("word")
    kept = text.removesuffix(one.cut)
    assert list(one.token_ids[1:-13]) == prompts.tokenizer(kept, add_special_tokens=False).input_ids


def test_a_text_is_cut_between_words(prompts):
    text = "a " * 60 + "antidisestablishmentarianism and more"
    one = prompts.tokenize(Prompt(text, ["dog", "cat"]))
    assert one.cut == "antidisestablishmentarianism and more"


def test_a_text_without_spaces_is_cut_between_tokens(prompts):
    one = prompts.tokenize(Prompt("狗" * 100, ["dog"]))
    assert len(one.token_ids) == 77
    assert 0 < len(one.cut) < 100


@pytest.mark.parametrize("template", TemplateTokens)
@pytest.mark.parametrize("special", ["<|startoftext|>", "<|endoftext|>"])
def test_start_and_end_in_a_prompt_are_words(special, template):
    prompts = PromptTokenizer(clip_tokenizer(), OWN, 77, EntityTokens.LABEL_AND_PLACEHOLDER, template)
    one = prompts.tokenize(Prompt(f"a {special} on grass", [f"dog{special}"]))
    start, *inside, end = one.token_ids
    assert (start, end) == (prompts.tokenizer.bos_token_id, prompts.tokenizer.eos_token_id)
    assert not {start, end} & set(inside)
    assert "text" in words(prompts, one.token_ids)
    assert len(one.label_positions[0]) > 1


def test_other_texts_have_the_tokens_that_models_were_trained_with(prompts):
    """An exclamation mark is padding as well, which a text keeps."""
    text = "Wow!! It's a café's <sign|>, 23 €; end of text |>!"
    expected = prompts.tokenizer(text, add_special_tokens=False).input_ids
    assert list(prompts.tokenize(Prompt(text)).token_ids[1:-1]) == expected
    assert expected.count(prompts.tokenizer.pad_token_id) == 3


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (Prompt(f"a {OWN} on grass", ["dog"]), r"the text holds '<\|subject\|>'.*leave it out"),
        (Prompt("on grass", [f"dog{OWN}"]), "the label 'dog<.*leave it out"),
        (Prompt("on grass", [" "]), "the label ' ' is blank"),
        (Prompt("on grass", ["very " * 40 + "old dog", "cat " * 40]), "need 15 tokens more than .* 77"),
    ],
)
def test_what_cannot_be_written_is_refused(prompts, prompt, message):
    with pytest.raises(PromptError, match=message):
        prompts.tokenize(prompt)


def test_an_ordinary_word_serves_as_placeholder_without_a_new_token():
    official = PromptTokenizer(clip_tokenizer(), "sks", 77, EntityTokens.LABEL_AND_PLACEHOLDER)
    assert (official.placeholder_id, official.vocabulary_size) == (48136, 49408)
    with pytest.raises(PromptError, match="holds 'sks'"):
        official.tokenize(Prompt("an SKS rifle", ["rifle"]))


def test_a_placeholder_of_our_own_is_one_new_token(prompts):
    assert (prompts.placeholder_id, prompts.vocabulary_size) == (49408, 49409)


def test_tensors_pad_tokens_and_slots(prompts):
    tokens = prompts([Prompt("on grass", ["dog"]), Prompt("at sea", [None, "fire hydrant"])])
    assert tokens.token_ids.shape == (2, 77)
    assert (tokens.token_ids[:, 30:] == 0).all()
    assert (tokens.placeholder_positions >= 0).tolist() == [[True, False], [False, True]]
    assert tokens.entity_tokens.shape == (2, 4, 77)
    assert tokens.entity_tokens.sum(-1).tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]


@pytest.mark.parametrize(
    ("choice", "weights"),
    [
        (EntityTokens.LABEL_AND_PLACEHOLDER, [{5: THIRD, 6: THIRD, 7: THIRD}, {9: 1.0}]),
        (EntityTokens.LAST_LABEL_TOKEN_AND_PLACEHOLDER, [{7: 1.0}, {9: 1.0}]),
        (EntityTokens.PLACEHOLDER, [{9: 1.0}]),
    ],
)
def test_which_tokens_are_the_entities(choice, weights):
    tokens = PromptTokenizer(clip_tokenizer(), OWN, 77, choice)([Prompt("on grass", ["fire hydrant"])])
    rows = [{int(at): pytest.approx(float(row[at])) for at in row.nonzero()} for row in tokens.entity_tokens[0]]
    assert rows == weights


def test_the_empty_prompt_has_no_slots(prompts):
    tokens = prompts([Prompt("")])
    assert tokens.placeholder_positions.shape == (1, 0)
    assert tokens.entity_tokens.shape == (1, 0, 77)
    assert tokens.token_ids[0, :3].tolist() == [49406, 49407, 0]
    assert torch.equal(tokens.token_ids, torch.tensor([[49406, 49407] + [0] * 75]))
