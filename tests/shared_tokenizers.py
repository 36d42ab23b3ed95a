"""Tokenizers whose files are parsed once for all tests of a process.

Parsing CLIP's vocabulary of 49,408 words takes half a second, and most tests of the model load it, so it was half of
their time. Each load still hashes the files: damaged and changed ones are parsed as ever.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from transformers import CLIPTokenizer

from model.config import ModelConfig

_PLACEHOLDERS = {ModelConfig().placeholder}
"""Words that a model adds to its tokenizer; one that has no others is as good as new for the next model."""
_PARSED: dict[str, tuple[CLIPTokenizer, set[str]]] = {}
"""Tokenizers by content, with the words that their files add to the vocabulary."""


@contextmanager
def shared_tokenizers() -> Iterator[None]:
    """Parse equal files once while the block runs."""
    load: Callable[..., CLIPTokenizer] = CLIPTokenizer.from_pretrained

    def from_pretrained(source: str | Path, *, subfolder: str = "", **options: Any) -> CLIPTokenizer:
        folder = Path(source, subfolder)
        if not folder.is_dir():
            return load(source, subfolder=subfolder, **options)
        content = _hash(folder)
        tokenizer, words = _PARSED.get(content, (None, set()))
        if tokenizer is None or set(tokenizer.get_added_vocab()) - words - _PLACEHOLDERS:
            tokenizer = load(source, subfolder=subfolder, **options)
            _PARSED[content] = (tokenizer, set(tokenizer.get_added_vocab()))
        return tokenizer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CLIPTokenizer, "from_pretrained", staticmethod(from_pretrained))
        yield


def _hash(folder: Path) -> str:
    """Return a hash of the names and contents of the files in a folder."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        total.update(f"{path.name} {path.stat().st_size} ".encode() + path.read_bytes())
    return total.hexdigest()
