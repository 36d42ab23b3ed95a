"""The parts of OpenCLIP that the project uses, imported without wandb.

Import them from here, never from `open_clip` directly.
"""

from collections.abc import Mapping
from typing import Any

from infra.imports import without_wandb

with without_wandb():
    import open_clip
    from open_clip.tokenizer import bytes_to_unicode, default_bpe
    from open_clip.transformer import QuickGELU, VisionTransformer

OpenClipSettings = Mapping[str, Any]
"""Settings of an OpenCLIP model, as in its JSON files."""

__all__ = ["OpenClipSettings", "QuickGELU", "VisionTransformer", "bytes_to_unicode", "default_bpe", "open_clip"]
