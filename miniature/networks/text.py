"""The words of the small Stable Diffusion: a real `CLIPTokenizer` whose vocabulary has every word of a caption whole.

Byte-pair merges are learned from the captions' words until none is left, so each of them is one token; other words fall
into letters, as CLIP's do.
"""

import json
import string
from collections.abc import Iterable
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from model.inputs.prompt import clip_tokenizer, clip_tokenizer_from_merges

WIDTH, MAX_TOKENS = 128, 48
_ALWAYS = ", the is " + " ".join(string.ascii_lowercase + string.digits + string.punctuation)
"""Words of the prompt template, and single signs."""


def tokenizer(texts: Iterable[str]) -> CLIPTokenizer:
    """A new tokenizer that knows the words of `texts`, the same in every process."""
    letters = sorted(ByteLevel.alphabet())
    learned = clip_tokenizer().train_new_from_iterator(
        [[*texts, _ALWAYS]],
        vocab_size=1_000_000,
        initial_alphabet=letters,
        new_special_tokens=[f"{letter}</w>" for letter in letters],  # else numbered at random, which decides ties
        show_progress=False,
    )
    merges = json.loads(learned.backend_tokenizer.to_str())["model"]["merges"]
    return clip_tokenizer_from_merges(merges, MAX_TOKENS)


def architecture(tokens: CLIPTokenizer) -> CLIPTextConfig:
    """Two layers, 128 wide, 48 tokens."""
    return CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        projection_dim=WIDTH,
        hidden_act="gelu",
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )


def build(tokens: CLIPTokenizer) -> Any:
    """transformers' `CLIPTextModel` with random weights."""
    return CLIPTextModel(architecture(tokens))
