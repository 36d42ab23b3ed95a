"""Step 2 of Fig. 2: the nouns of a caption are the entity tags."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from labeling.config import NounConfig
from labeling.sdd.schema import Noun, Nouns
from labeling.stages.base import Drop


class Tagger(Protocol):
    """A part-of-speech tagger."""

    def nouns(self, captions: Sequence[str]) -> list[tuple[Noun, ...]]:
        """The nouns of each caption, in caption order, each label once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """What the stage reads."""

    key: bytes
    caption: str


class NounStage:
    """Tags captions with spaCy: "we perform part-of-speech analysis" (Sec. 3.1)."""

    name: ClassVar[str] = "nouns"
    reads: ClassVar[type] = Text
    writes: ClassVar[type] = Nouns

    def __init__(self, config: NounConfig, tagger: Tagger | None = None) -> None:
        self.config = config
        self.tagger = tagger

    def setup(self) -> None:
        if self.tagger is None:
            from labeling.backends.spacy_tagger import SpacyTagger  # in the worker only

            self.tagger = SpacyTagger(self.config)

    def prepare(self, row: Text) -> Text:
        return row

    def process(self, batch: Sequence[Text]) -> list[Nouns | Drop]:
        assert self.tagger is not None, "setup() was not called"
        found = self.tagger.nouns([row.caption for row in batch])
        return [
            Nouns(key=row.key, nouns=nouns) if nouns else Drop("no_noun", row.caption[:200])
            for row, nouns in zip(batch, found, strict=True)
        ]
