"""Tokenize prompts of the template, and record the positions of its words (Sec. 3.3, "Fusion text encoder").

"[text], the [label 0] is [PH_0], the [label 1] is [PH_1]": text and clauses are tokenized separately and then joined.
The positions of all labels and placeholders are therefore known, and a long text can be cut without cutting a clause.

Axes: B images, R reference subjects, K entity tokens, T text tokens.
"""

import gzip
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

import torch
from jaxtyping import Float
from tokenizers import AddedToken
from torch import Tensor
from transformers import BatchEncoding, CLIPTokenizer

from model.config import EntityTokens, TemplateTokens
from model.errors import PromptError
from model.inputs.batch import ABSENT, PromptTokens
from model.openclip import bytes_to_unicode, default_bpe

_MERGES = 49_152 - 256 - 2
"""Merges of CLIP's tokenizer among those in the file."""
_BEFORE_LABEL = ", the"
Positions = tuple[int, ...]
"""Token positions in a prompt."""
TokenIds = tuple[int, ...]
Clause = tuple[TokenIds, TokenIds, TokenIds]
"""Token ids of ", the", of the label, and of "is [PH]"."""


@dataclass(frozen=True)
class Prompt:
    """A text with the subjects that it mentions."""

    text: str
    """A user's prompt, or a caption."""
    labels: Sequence[str | None] = ()
    """Label of the subject in each slot; None for an absent slot."""


@dataclass(frozen=True)
class TokenizedPrompt:
    """A tokenized prompt of the template."""

    token_ids: TokenIds
    """Token ids with start and end, without padding."""
    label_positions: tuple[Positions, ...]
    """Positions of the tokens of each slot's label; empty for an absent slot."""
    placeholder_positions: Positions
    """Position of each slot's placeholder; `ABSENT` for an absent slot."""
    cut: str
    """End of the text that did not fit; empty if all of it did."""


class PromptTokenizer:
    """Tokenizer for prompts of the template.

    Args:
        tokenizer: tokenizer of the base. A placeholder that is not one of its tokens is added to it.
        placeholder: the word [PH], the same for every subject; the CLS embedding that replaces it tells them apart.
        max_tokens: number of tokens that the text encoder takes.
        entity_tokens: tokens that serve as y_k in Eq. 2.
        template: whether text and clauses are tokenized separately or as one string.
    """

    def __init__(
        self,
        tokenizer: CLIPTokenizer,
        placeholder: str,
        max_tokens: int,
        entity_tokens: EntityTokens,
        template: TemplateTokens = TemplateTokens.APART,
    ) -> None:
        if len(tokenizer.encode(placeholder, add_special_tokens=False)) != 1:
            tokenizer.add_tokens([AddedToken(placeholder, normalized=False)])
        self.tokenizer = tokenizer
        self.placeholder = placeholder
        self.placeholder_id: int = tokenizer.encode(placeholder, add_special_tokens=False)[0]
        self.max_tokens = max_tokens
        self.entities_of = _ENTITIES_OF[entity_tokens]
        self._join = {TemplateTokens.APART: self._join_apart, TemplateTokens.WHOLE: self._join_whole}[template]
        self._cached_ids: dict[str, TokenIds] = {}

    @property
    def vocabulary_size(self) -> int:
        """Number of rows that the text encoder's embedding table needs."""
        return len(self.tokenizer)

    def __call__(self, prompts: Sequence[Prompt]) -> PromptTokens:
        """Return the prompts as tensors, with as many slots as the longest list of labels.

        Raises:
            PromptError: as for `tokenize`.
        """
        return self.stack([self.tokenize(prompt) for prompt in prompts])

    def stack(self, prompts: Sequence[TokenizedPrompt]) -> PromptTokens:
        """Return tokenized prompts as tensors."""
        slots = max(len(prompt.placeholder_positions) for prompt in prompts)
        padding = [self.tokenizer.pad_token_id] * self.max_tokens
        placeholders = [[*one.placeholder_positions, *[ABSENT] * slots][:slots] for one in prompts]
        return PromptTokens(
            token_ids=torch.tensor([[*one.token_ids, *padding][: self.max_tokens] for one in prompts]),
            placeholder_positions=torch.tensor(placeholders, dtype=torch.long).reshape(len(prompts), slots),
            entity_tokens=torch.stack([self._entity_tokens(one, slots) for one in prompts]),
        )

    def tokenize(self, prompt: Prompt) -> TokenizedPrompt:
        """Tokenize a prompt; a text that is too long is cut, at a space if possible.

        Raises:
            PromptError: the text or a label contains the placeholder, a label is blank, or the clauses alone are too
                long.
        """
        clauses = [None if label is None else self._clause(label) for label in prompt.labels]
        text, cut = self._opening(prompt, [clause for clause in clauses if clause is not None])
        ids = [self.tokenizer.bos_token_id, *text]
        labels: list[Positions] = []
        placeholders: list[int] = []
        for clause in clauses:
            before, label, after = clause or ((), (), ())
            ids += before if any(labels) else ()  # the opening includes that of the first clause
            labels.append(tuple(range(len(ids), len(ids) + len(label))))
            ids += label + after
            placeholders.append(len(ids) - 1 if clause else ABSENT)
        return TokenizedPrompt((*ids, self.tokenizer.eos_token_id), tuple(labels), tuple(placeholders), cut)

    def _clause(self, label: str) -> Clause:
        ids = self._refuse_placeholder(self._ids(label), f"the label {label!r}")
        if not ids:
            raise PromptError(f"the label {label!r} is blank: give a word for the subject, such as 'dog'")
        return self._ids(_BEFORE_LABEL), ids, (*self._ids("is"), self.placeholder_id)

    def _opening(self, prompt: Prompt, clauses: Sequence[Clause]) -> tuple[TokenIds, str]:
        """Return token ids of the text and of the first clause's ", the", and the end of the text that did not fit."""
        room = self.max_tokens - 2 - sum(len(part) for clause in clauses for part in clause)
        if not clauses:
            return self._fit(prompt, room)
        for spare in count():  # the end of the text may need more tokens when it is joined with the comma
            ids, cut = self._fit(prompt, room - spare)
            opening = self._join(prompt.text.removesuffix(cut), ids)
            if len(opening) <= room + len(self._ids(_BEFORE_LABEL)):
                break
        return opening, cut

    def _join_apart(self, text: str, ids: TokenIds) -> TokenIds:
        before = self._ids(_BEFORE_LABEL)
        return ids + (before if ids else before[1:])

    def _join_whole(self, text: str, ids: TokenIds) -> TokenIds:
        return tuple(self._encode(text.strip() + _BEFORE_LABEL).input_ids)

    def _fit(self, prompt: Prompt, room: int) -> tuple[TokenIds, str]:
        """Return the token ids of the text that fit into `room`, and the rest of the text."""
        if room < 0:
            labels = ", ".join(repr(label) for label in prompt.labels if label)
            raise PromptError(
                f"the clauses for {labels} need {-room} tokens more than the text encoder's {self.max_tokens}: "
                f"shorten the labels, or give fewer subjects"
            )
        encoded = self._encode(prompt.text)
        ids = self._refuse_placeholder(tuple(encoded.input_ids), "the text")
        if len(ids) <= room:
            return ids, ""
        starts = [start for start, _ in encoded.offset_mapping]
        fitting = next((n for n in range(room, 0, -1) if prompt.text[starts[n] - 1].isspace()), room)
        return ids[:fitting], prompt.text[starts[fitting] :]

    def _refuse_placeholder(self, ids: TokenIds, what: str) -> TokenIds:
        if self.placeholder_id in ids:
            raise PromptError(
                f"{what} holds {self.placeholder!r}, which stands for the picture of a subject: leave it out; "
                f"a clause for each subject is added automatically"
            )
        return ids

    def _ids(self, words: str) -> TokenIds:
        """Return token ids of `words`, cached because all clauses share a few words."""
        if words not in self._cached_ids:
            self._cached_ids[words] = tuple(self._encode(words).input_ids)
        return self._cached_ids[words]

    def _encode(self, text: str) -> BatchEncoding:
        """Return token ids and offsets; a start or end token spelled out in the text is split like any other word.

        Only a text with such a token is encoded with `split_special_tokens`, because that would also change "!", the
        padding token.
        """
        names_special = self.tokenizer.bos_token in text or self.tokenizer.eos_token in text
        return self.tokenizer(
            text,
            add_special_tokens=False,
            return_offsets_mapping=True,
            split_special_tokens=names_special,
            verbose=False,
        )

    def _entity_tokens(self, prompt: TokenizedPrompt, slots: int) -> Float[Tensor, "K T"]:
        labels = [*prompt.label_positions, *[()] * slots][:slots]
        placeholders = [*prompt.placeholder_positions, *[ABSENT] * slots][:slots]
        entities = [entity for pair in zip(labels, placeholders, strict=True) for entity in self.entities_of(*pair)]
        weights = torch.zeros(len(entities), self.max_tokens)
        for row, positions in zip(weights, entities, strict=True):
            row[list(positions)] = 1.0 / max(len(positions), 1)
        return weights


def _label_and_placeholder(label: Positions, placeholder: int) -> list[Positions]:
    return [label, *_placeholder(label, placeholder)]


def _last_label_token_and_placeholder(label: Positions, placeholder: int) -> list[Positions]:
    return [label[-1:], *_placeholder(label, placeholder)]


def _placeholder(label: Positions, placeholder: int) -> list[Positions]:
    return [() if placeholder == ABSENT else (placeholder,)]


_ENTITIES_OF: dict[EntityTokens, Callable[[Positions, int], list[Positions]]] = {
    EntityTokens.LABEL_AND_PLACEHOLDER: _label_and_placeholder,
    EntityTokens.LAST_LABEL_TOKEN_AND_PLACEHOLDER: _last_label_token_and_placeholder,
    EntityTokens.PLACEHOLDER: _placeholder,
}


def clip_tokenizer() -> CLIPTokenizer:
    """Return CLIP's tokenizer, from the vocabulary in open_clip's package.

    All known bases use this vocabulary; padding is that of Stable Diffusion 2.
    """
    with gzip.open(default_bpe(), "rt", encoding="utf-8") as lines:
        merges = [line.split() for line in lines.read().split("\n")[1 : _MERGES + 1]]
    return clip_tokenizer_from_merges(merges, max_tokens=77)


def clip_tokenizer_from_merges(merges: Sequence[Sequence[str]], max_tokens: int) -> CLIPTokenizer:
    """Return a tokenizer like CLIP's with these merges.

    Ids number the letters first, then the letters that end a word, then the merges.
    """
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges)]
    vocabulary = {word: index for index, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=[*map(tuple, merges)], pad_token="!", model_max_length=max_tokens)
