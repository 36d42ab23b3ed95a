"""Which nouns of a caption are entity tags, with a tagger that takes every word for a noun."""

from collections.abc import Sequence

import pytest

from labeling.config import NounConfig
from labeling.sdd.schema import Noun, Nouns, RemovedNoun
from labeling.stages.base import Drop
from labeling.stages.networks import NounPhrase
from labeling.stages.nouns import NounInput, NounStage
from tests.factories import key


class EveryWord:
    """Takes every word for a noun, but "of", "on" and "a"; "~" joins words; "old" is an adjective; -s is a plural."""

    def nouns(self, captions: Sequence[str]) -> list[list[NounPhrase]]:
        return [list(self._phrases(caption)) for caption in captions]

    def _phrases(self, caption: str):
        start = 0
        for word in caption.split(" "):
            end = start + len(word)
            if word.lower() not in ("of", "on", "a"):
                spelled = word.lower().replace("~", " ")
                noun_start = start + (len("old~") if spelled.startswith("old ") else 0)
                yield NounPhrase(start, noun_start, end, spelled.removesuffix("s"))
            start = end + 1


def stage(**settings) -> NounStage:
    lists = {"stop_words": (), "stop_phrases": (), "plural_words": (), "renamed": {}}
    tagging = NounStage(NounConfig(**(lists | settings)), lambda _: EveryWord())
    tagging.setup()
    return tagging


def kept_and_removed(caption: str, **settings) -> tuple[list[str], dict[str, str]]:
    ((nouns, removed),) = stage(**settings).tags([caption])
    return [noun.label for noun in nouns], {noun.label: noun.reason for noun in removed}


def test_a_stop_word_is_removed_by_itself_and_as_the_last_word_of_a_compound():
    caption = "Photo stock~photos photo~frame"
    assert kept_and_removed(caption, stop_words=("photo",)) == (
        ["photo frame"],
        {"photo": "stop_word", "stock photo": "stop_word"},
    )


@pytest.mark.parametrize(
    ("caption", "removed"),
    [
        ("top of hill", True),
        ("a tops of hill", True),
        ("Top of hill", True),
        ("cat on top", True),
        ("a red top", False),
        ("a top off hill", False),
        ("cat on topping", False),
        ("a table~top of oak", False),
        ("an old~top of oak", True),
    ],
)
def test_a_phrase_removes_the_noun_that_it_covers(caption, removed):
    kept, gone = kept_and_removed(caption, stop_phrases=("top of", "on top"))
    assert ("stop_phrase" in gone.values()) == removed
    assert any("top" in label for label in kept) != removed


def test_a_word_alone_is_a_phrase_and_spares_its_compounds():
    assert kept_and_removed("space parking~space", stop_phrases=("space",)) == (
        ["parking space"],
        {"space": "stop_phrase"},
    )


def test_plurals_are_one_label_with_their_singular_unless_they_are_listed():
    assert kept_and_removed("dogs dog glasses") == (["dog", "glasse"], {"dog": "repeated"})
    assert kept_and_removed("dogs dog glasses", plural_words=("glasses",)) == (["dog", "glasses"], {"dog": "repeated"})
    assert kept_and_removed("dogs dog glasses", singular=False) == (["dogs", "dog", "glasses"], {})


def test_renamed_labels_meet_the_labels_that_they_get():
    assert kept_and_removed("puppies dog", renamed={"puppie": "dog"}) == (["dog"], {"dog": "repeated"})
    (tags,) = stage(renamed={"puppie": "dog"}).tags(["two Puppies"])
    assert tags.nouns[1] == Noun(label="dog", span_start=4, span_end=11)


def test_places_count_characters_of_the_caption_as_it_is_spelled():
    """Lower case makes two characters of one: of the capital letter I with a dot."""
    caption = "İİİ top of"
    ((nouns, removed),) = stage(stop_phrases=("top of",)).tags([caption])
    assert [(caption[n.span_start : n.span_end]) for n in nouns] == ["İİİ"]
    assert [noun.label for noun in removed] == ["top"]


def test_an_image_without_tags_is_dropped_with_its_removed_nouns():
    rows = [NounInput(key=key(n), caption=caption) for n, caption in enumerate(("a photo", "a of", "a cat"))]
    only_stop, nothing, cat = stage(stop_words=("photo",)).process(rows)
    removed = (RemovedNoun(label="photo", reason="stop_word"),)
    assert only_stop == Drop("only_stop_nouns", "a photo", Nouns(key=key(0), nouns=(), removed_nouns=removed))
    assert nothing == Drop("no_noun", "a of", Nouns(key=key(1), nouns=(), removed_nouns=()))
    assert isinstance(cat, Nouns)
