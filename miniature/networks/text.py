"""Tokenizer and text encoder of the small Stable Diffusion: a `CLIPTokenizer` with one token for each caption word.

Byte-pair merges are learned from the captions until each of their words is one token; other words are split into
letters, as in CLIP.
"""

import json
import string
from collections.abc import Iterable

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from model.inputs.prompt import clip_tokenizer, clip_tokenizer_from_merges

WIDTH, MAX_TOKENS = 128, 48
_ALWAYS = ", the is " + " ".join(string.ascii_lowercase + string.digits + string.punctuation)
"""Words of the prompt template, and single characters."""


def tokenizer(texts: Iterable[str]) -> CLIPTokenizer:
    """Train a tokenizer on the words of `texts`; the result is the same in every process."""
    letters = sorted(ByteLevel.alphabet())
    learned = clip_tokenizer().train_new_from_iterator(
        [[*texts, _ALWAYS]],
        vocab_size=1_000_000,
        initial_alphabet=letters,
        new_special_tokens=[
            f"{letter}</w>" for letter in letters
        ],  # otherwise their ids are random, and ids break ties
        show_progress=False,
    )
    merges = json.loads(learned.backend_tokenizer.to_str())["model"]["merges"]
    return clip_tokenizer_from_merges(merges, MAX_TOKENS)


def architecture(tokens: CLIPTokenizer) -> CLIPTextConfig:
    """Return the configuration of a text encoder with two layers, 128 wide, for 48 tokens."""
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


def build(tokens: CLIPTokenizer) -> CLIPTextModel:
    """Return the text encoder with random weights."""
    return CLIPTextModel(architecture(tokens))
