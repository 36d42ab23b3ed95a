"""The parts of OpenCLIP that the model is made of; whatever else imports OpenCLIP imports it from here."""

from infra.imports import without_wandb

with without_wandb():
    import open_clip
    from open_clip.tokenizer import bytes_to_unicode, default_bpe
    from open_clip.transformer import QuickGELU, VisionTransformer

__all__ = ["QuickGELU", "VisionTransformer", "bytes_to_unicode", "default_bpe", "open_clip"]
