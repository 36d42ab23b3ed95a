"""Step 2 of Fig. 2: the nouns of a caption become its entity tags."""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from labeling.config import NounConfig
from labeling.sdd.schema import Layer, Noun, Nouns, RemovedNoun
from labeling.stages.base import Drop
from labeling.stages.networks import NounPhrase, Tagger


class Tags(NamedTuple):
    """The nouns of one caption, in caption order."""

    nouns: tuple[Noun, ...]
    """Entity tags, each label once."""
    removed: tuple[RemovedNoun, ...]
    """Nouns that are not entity tags, each with its reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NounInput:
    """Columns that the stage reads."""

    key: bytes
    caption: str


class NounStage:
    """Stage that tags captions with spaCy: "we perform part-of-speech analysis" (Sec. 3.1)."""

    name: ClassVar[str] = Layer.NOUNS
    reads: ClassVar[type] = NounInput
    writes: ClassVar[type] = Nouns

    def __init__(self, config: NounConfig, load: Callable[[NounConfig], Tagger]) -> None:
        self.config = config
        self.tagger: Tagger | None = None
        self._load = load
        self._selector = TagSelector(config)

    def setup(self) -> None:
        """Load the tagger."""
        if self.tagger is None:
            self.tagger = self._load(self.config)

    def prepare(self, row: NounInput) -> NounInput:
        """Return the row: a caption needs no preparation."""
        return row

    def process(self, batch: Sequence[NounInput]) -> list[Nouns | Drop]:
        """Tag the captions; an image without an entity tag is dropped."""
        tags_of_rows = self.tags([row.caption for row in batch])
        return [_outcome(row, tags) for row, tags in zip(batch, tags_of_rows, strict=True)]

    def tags(self, captions: Sequence[str]) -> list[Tags]:
        """Return the nouns of each caption."""
        assert self.tagger is not None, "setup() was not called"
        nouns = zip(captions, self.tagger.nouns(captions), strict=True)
        return [self._selector.select(caption, phrases) for caption, phrases in nouns]


def _outcome(row: NounInput, tags: Tags) -> Nouns | Drop:
    nouns = Nouns(key=row.key, nouns=tags.nouns, removed_nouns=tags.removed)
    if tags.nouns:
        return nouns
    return Drop("only_stop_nouns" if tags.removed else "no_noun", row.caption[:200], nouns)


class TagSelector:
    """Labels the nouns of a caption and selects the entity tags among them."""

    def __init__(self, config: NounConfig) -> None:
        self._config = config
        self._stop_words = frozenset(config.stop_words)
        self._phrases: dict[str, list[re.Pattern[str]]] = defaultdict(list)
        """Stop phrases by each of their words."""
        for phrase in config.stop_phrases:
            for word in set(phrase.split()):
                self._phrases[word].append(re.compile(rf"(?<!\w){re.escape(phrase)}(?!\w)"))

    def select(self, caption: str, phrases: Sequence[NounPhrase]) -> Tags:
        """Return the nouns of `caption`. If several have one label, the first becomes the tag."""
        tags: dict[str, Noun] = {}
        removed = []
        for phrase in phrases:
            label = self._label(caption, phrase)
            if reason := self._stop_reason(caption, phrase) or ("repeated" if label in tags else ""):
                removed.append(RemovedNoun(label=label, reason=reason))
            else:
                tags[label] = Noun(label=label, span_start=phrase.start, span_end=phrase.end)
        return Tags(tuple(tags.values()), tuple(removed))

    def _label(self, caption: str, phrase: NounPhrase) -> str:
        spelled = caption[phrase.start : phrase.end].lower()
        is_plural = not self._config.singular or spelled.split()[-1] in self._config.plural_words
        label = spelled if is_plural else phrase.singular
        return self._config.renamed.get(label, label)

    def _stop_reason(self, caption: str, phrase: NounPhrase) -> str:
        """Return the kind of the stop list that contains the noun; empty if none does."""
        before = caption[: phrase.noun_start].lower()
        noun = phrase.singular[len(caption[phrase.start : phrase.noun_start].lower()) :]
        word = noun.split()[-1]
        if word in self._stop_words:
            return "stop_word"
        text, end = before + noun + caption[phrase.end :].lower(), len(before) + len(noun)
        places = (match.span() for pattern in self._phrases.get(word, ()) for match in pattern.finditer(text))
        return "stop_phrase" if any(start <= len(before) and end <= stop for start, stop in places) else ""
