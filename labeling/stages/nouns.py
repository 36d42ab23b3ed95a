"""Step 2 of Fig. 2: the nouns of a caption are the entity tags."""

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
    """The entity tags, each label once."""
    removed: tuple[RemovedNoun, ...]
    """Those that are no entity tags, each with its reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NounInput:
    """What the stage reads."""

    key: bytes
    caption: str


class NounStage:
    """Tags captions with spaCy: "we perform part-of-speech analysis" (Sec. 3.1)."""

    name: ClassVar[str] = Layer.NOUNS
    reads: ClassVar[type] = NounInput
    writes: ClassVar[type] = Nouns

    def __init__(self, config: NounConfig, load: Callable[[NounConfig], Tagger]) -> None:
        self.config = config
        self.tagger: Tagger | None = None
        self._load = load
        self._selection = Selection(config)

    def setup(self) -> None:
        if self.tagger is None:
            self.tagger = self._load(self.config)

    def prepare(self, row: NounInput) -> NounInput:
        return row

    def process(self, batch: Sequence[NounInput]) -> list[Nouns | Drop]:
        found = self.tags([row.caption for row in batch])
        return [_outcome(row, tags) for row, tags in zip(batch, found, strict=True)]

    def tags(self, captions: Sequence[str]) -> list[Tags]:
        """The nouns of each caption."""
        assert self.tagger is not None, "setup() was not called"
        found = self.tagger.nouns(captions)
        return [self._selection(caption, phrases) for caption, phrases in zip(captions, found, strict=True)]


def _outcome(row: NounInput, tags: Tags) -> Nouns | Drop:
    found = Nouns(key=row.key, nouns=tags.nouns, removed_nouns=tags.removed)
    if tags.nouns:
        return found
    return Drop("only_stop_nouns" if tags.removed else "no_noun", row.caption[:200], found)


class Selection:
    """Labels the nouns of a caption and chooses those that are entity tags."""

    def __init__(self, config: NounConfig) -> None:
        self._config = config
        self._stop_words = frozenset(config.stop_words)
        self._phrases: dict[str, list[re.Pattern[str]]] = defaultdict(list)
        """Stop phrases by each of their words."""
        for phrase in config.stop_phrases:
            for word in set(phrase.split()):
                self._phrases[word].append(re.compile(rf"(?<!\w){re.escape(phrase)}(?!\w)"))

    def __call__(self, caption: str, phrases: Sequence[NounPhrase]) -> Tags:
        """The nouns of `caption`; a label counts where it comes first."""
        tags: dict[str, Noun] = {}
        removed = []
        for phrase in phrases:
            label = self._label(caption, phrase)
            if reason := self._stopped(caption, phrase) or ("repeated" if label in tags else ""):
                removed.append(RemovedNoun(label=label, reason=reason))
            else:
                tags[label] = Noun(label=label, span_start=phrase.start, span_end=phrase.end)
        return Tags(tuple(tags.values()), tuple(removed))

    def _label(self, caption: str, phrase: NounPhrase) -> str:
        spelled = caption[phrase.start : phrase.end].lower()
        is_plural = not self._config.singular or spelled.split()[-1] in self._config.plural_words
        label = spelled if is_plural else phrase.singular
        return self._config.renamed.get(label, label)

    def _stopped(self, caption: str, phrase: NounPhrase) -> str:
        """Why the noun is no entity tag; empty if it is one."""
        before = caption[: phrase.noun_start].lower()
        noun = phrase.singular[len(caption[phrase.start : phrase.noun_start].lower()) :]
        word = noun.split()[-1]
        if word in self._stop_words:
            return "stop_word"
        text, end = before + noun + caption[phrase.end :].lower(), len(before) + len(noun)
        places = (match.span() for pattern in self._phrases.get(word, ()) for match in pattern.finditer(text))
        return "stop_phrase" if any(start <= len(before) and end <= stop for start, stop in places) else ""
