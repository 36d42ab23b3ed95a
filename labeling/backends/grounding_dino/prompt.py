"""The prompts of Grounding DINO: nouns as "noun one. noun two.", each with its own tokens.

Each phrase between two full stops is encoded independently, so a noun has the same encoding in any prompt. A prompt
holds at most `max_tokens` tokens, and both libraries silently truncate longer ones, so the nouns of an image are split
into as many prompts as needed.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from labeling.errors import BackendWeightsError

logger = logging.getLogger(__name__)

DELIMITERS = ("[CLS]", "[SEP]", ".", "?")
"""Tokens that end a phrase, in both libraries."""
NO_LABEL = -1
"""Value in `Prompt.owners` of tokens that belong to no noun."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Some of an image's nouns, tokenised."""

    token_ids: tuple[int, ...]
    owners: tuple[int, ...]
    """For each token the index of its label, or `NO_LABEL`."""


@dataclass(frozen=True, slots=True)
class PromptBatch:
    """Prompts padded to the longest; each tensor is [B, T]."""

    token_ids: Tensor
    attention_mask: Tensor
    """1 for tokens, 0 for padding."""
    owners: Tensor

    def to(self, device: torch.device) -> "PromptBatch":
        """Return the batch on `device`."""
        return PromptBatch(self.token_ids.to(device), self.attention_mask.to(device), self.owners.to(device))


def collate(prompts: Sequence[Prompt]) -> PromptBatch:
    """Combine prompts into one batch. Padding has token id 0 and no owner."""
    ids = [torch.tensor(p.token_ids) for p in prompts]
    return PromptBatch(
        token_ids=pad_sequence(ids, batch_first=True),
        attention_mask=pad_sequence([torch.ones_like(i) for i in ids], batch_first=True),
        owners=pad_sequence([torch.tensor(p.owners) for p in prompts], batch_first=True, padding_value=NO_LABEL),
    )


class PromptWriter:
    """Writer of an image's prompts.

    Choices:
        Each noun is tokenised by itself, so its span is exact. A delimiter inside a noun ("st. bernard") would split
        it in two, so it is removed. A noun that is too long for a prompt of its own is truncated. Truncated nouns and
        nouns without a token are logged.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> None:
        """Set up the writer.

        Args:
            tokenizer: tokenizer of transformers.
            max_tokens: length of the longest prompt, [CLS] and [SEP] included.

        Raises:
            BackendWeightsError: the tokenizer's vocabulary lacks a delimiter.
        """
        self.delimiter_ids: tuple[int, ...] = tuple(tokenizer.convert_tokens_to_ids(list(DELIMITERS)))
        if len(set(self.delimiter_ids)) < len(DELIMITERS) or None in self.delimiter_ids:
            raise BackendWeightsError(
                f"the tokenizer's vocabulary lacks one of {' '.join(DELIMITERS)}: it is not a BERT tokenizer"
            )
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens

    def write(self, labels: Sequence[str]) -> list[Prompt]:
        """Return the prompts that together contain every label with a token, in order; none for no labels."""
        cls, sep, stop, _ = self.delimiter_ids
        prompts: list[Prompt] = []
        ids, owners = [cls], [NO_LABEL]
        for label, noun in self._nouns(labels):
            if len(ids) + len(noun) + 2 > self._max_tokens:
                prompts.append(Prompt((*ids, sep), (*owners, NO_LABEL)))
                ids, owners = [cls], [NO_LABEL]
            ids += [*noun, stop]
            owners += [*[label] * len(noun), NO_LABEL]
        return [*prompts, Prompt((*ids, sep), (*owners, NO_LABEL))] if len(ids) > 1 else prompts

    def _nouns(self, labels: Sequence[str]) -> Iterator[tuple[int, list[int]]]:
        if not labels:
            return
        room = self._max_tokens - 3  # [CLS], the full stop, [SEP]
        lower_cased = [label.lower() for label in labels]
        tokenized = self._tokenizer(lower_cased, add_special_tokens=False, return_attention_mask=False, verbose=False)
        for label, ids in enumerate(tokenized["input_ids"]):
            noun = [i for i in ids if i not in self.delimiter_ids]
            if not 0 < len(noun) <= room:
                logger.warning("%r has %d tokens; the detector reads 1 to %d", labels[label][:80], len(noun), room)
            if noun:
                yield label, noun[:room]
