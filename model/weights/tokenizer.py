"""Load the tokenizer of a base or of a trained model, and check that it knows its words."""

import os
import re
from pathlib import Path

from transformers import CLIPTokenizer

from model.errors import ModelWeightsError
from model.weights.files import report_damage

_WORD = re.compile("[a-z]+</w>")
"""Tokens of CLIP's vocabulary that are whole words."""


def load_tokenizer(base: str | Path, revision: str | None = None) -> CLIPTokenizer:
    """Load the tokenizer in the folder `tokenizer` of a base or trained model: a folder, or the hub id of one.

    Raises:
        ModelWeightsError: files of it are missing or damaged.
    """
    base = os.path.expanduser(base)
    folder = Path(base) / "tokenizer"
    if folder.is_dir():  # transformers would create a tokenizer without words
        words = ("tokenizer.json",) if (folder / "tokenizer.json").exists() else ("vocab.json", "merges.txt")
        if missing := [name for name in ("tokenizer_config.json", *words) if not (folder / name).is_file()]:
            raise ModelWeightsError(f"{folder} lacks {' and '.join(missing)}: copy or download it again")
    with report_damage(folder):
        tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(base, revision=revision, subfolder="tokenizer")
        _check_words(tokenizer)
        return tokenizer


def _check_words(tokenizer: CLIPTokenizer) -> None:
    """Check that the tokenizer encodes and pads, and that the last word of its vocabulary is one token.

    The merges of a byte pair encoding are listed in the order of the words that they make, so without some of them
    the last word is split. A tokenizer without any merge encodes every text, letter by letter.
    """
    tokenizer.encode("a", truncation=True)
    if tokenizer.pad_token_id is None:
        raise ValueError("it has no pad_token")
    words = {number: token for token, number in tokenizer.get_vocab().items() if _WORD.fullmatch(token)}
    last = words[max(words)] if words else ""
    if tokenizer.tokenize(last.removesuffix("</w>")) != ([last] if last else []):
        raise ValueError(f"it splits {last.removesuffix('</w>')!r}, a word of its vocabulary, so merges are missing")
