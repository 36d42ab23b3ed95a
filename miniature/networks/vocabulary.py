"""Word-level vocabularies of the small networks, and the tokenizers that write them to disk.

There are two layouts, because the real networks hard-code some ids: `caption_vocabulary` has OPT's special tokens
(BLIP-2), `detection_vocabulary` has BERT's (Grounding DINO looks for ids 101, 102, 1012 and 1029).
"""

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

_WORD = re.compile(r"[.,?!]|[^\s.,?!]+")
_BERT_IDS = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Words of a network by id, and the roles of special tokens."""

    tokens: tuple[str, ...]
    """Tokens in the order of their ids, all different."""
    roles: tuple[tuple[str, str], ...]
    """Pairs of transformers' name for a role, such as `pad_token`, and the token."""
    template: str
    """Sequence that the tokenizer makes of a text `$A`, such as "[CLS] $A [SEP]"."""
    image: str | None = None
    """Token at whose places the embeddings of an image are inserted; None where there is none."""

    @property
    def ids(self) -> dict[str, int]:
        """Id of each token."""
        return {token: index for index, token in enumerate(self.tokens)}

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Return a tokenizer that lower-cases, splits at white space and punctuation, and knows whole words only."""
        ids = self.ids
        backend = Tokenizer(models.WordLevel(ids, unk_token=dict(self.roles)["unk_token"]))
        backend.normalizer = normalizers.Lowercase()
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("[.,?!]"), "isolated")]
        )
        backend.decoder = decoders.WordPiece(cleanup=True)  # "a dog , a cat" as "a dog, a cat"
        fixed = sorted({token for token in self.template.split() if token != "$A"})
        backend.post_processor = processors.TemplateProcessing(
            single=self.template, special_tokens=[(token, ids[token]) for token in fixed]
        )
        others = [] if self.image is None else [self.image]
        return PreTrainedTokenizerFast(tokenizer_object=backend, extra_special_tokens=others, **dict(self.roles))


def caption_vocabulary(texts: Iterable[str]) -> Vocabulary:
    """Return a vocabulary of OPT's special tokens, `<image>` and the words of `texts`.

    Token 2 starts and ends a text, as in the published BLIP-2.
    """
    roles = {"pad_token": "<pad>", "bos_token": "</s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokens = ("<s>", "<pad>", "</s>", "<unk>", "<image>", *words_of([*texts, ",", "."]))
    return Vocabulary(tokens, tuple(roles.items()), "</s> $A", image="<image>")


def detection_vocabulary(texts: Iterable[str]) -> Vocabulary:
    """Return a vocabulary of BERT's special tokens at BERT's ids and the words of `texts` at free ids from 104."""
    roles = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    by_id = {index: token for token, index in _BERT_IDS.items()}
    free = (index for index in itertools.count(104) if index not in by_id)
    by_id |= dict(zip(free, (word for word in words_of(texts) if word not in _BERT_IDS), strict=False))
    tokens = tuple(by_id.get(index, f"[unused{index}]") for index in range(max(by_id) + 1))
    return Vocabulary(tokens, tuple(roles.items()), "[CLS] $A [SEP]")


def words_of(texts: Iterable[str]) -> list[str]:
    """Return the distinct words of `texts`, lower case, sorted: "Ice cream, ice" gives ",", "cream", "ice"."""
    return sorted({word for text in texts for word in _WORD.findall(text.lower())})
