"""A small random Florence-2 in the layout of a checkpoint folder."""

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BartConfig,
    CLIPImageProcessor,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    PreTrainedTokenizerFast,
)

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<image>"]
WORDS = [f"word{n}" for n in range(90)] + [
    "Describe",
    "in",
    "detail",
    "what",
    "is",
    "shown",
    "the",
    "image",
    "does",
    "?",
]
SIDE = 64


def tokenizer(others: Sequence[str]) -> PreTrainedTokenizerFast:
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *WORDS, *others])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.decoder = decoders.WordPiece(prefix="##")
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    made = PreTrainedTokenizerFast(
        tokenizer_object=words, extra_special_tokens={"image_token": "<image>"}, model_max_length=64, **names
    )
    made.add_tokens([token for token in others if token.startswith("<")], special_tokens=True)
    return made


def write_florence2(folder: Path, others: Sequence[str] = (), seed: int = 0) -> Path:
    """Write a checkpoint whose vocabulary has these other words too; return its folder."""
    text = BartConfig(
        vocab_size=len(SPECIAL) + len(WORDS) + len(others),
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=96,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=2,
        init_std=0.4,
    )
    vision = {
        "depths": [1, 1, 1, 1],
        "embed_dim": [16, 16, 32, 32],
        "num_heads": [2, 2, 2, 2],
        "num_groups": [2, 2, 2, 2],
        "window_size": 2,
        "projection_dim": 32,
    }
    torch.manual_seed(seed)
    net = Florence2ForConditionalGeneration(
        Florence2Config(
            text_config=text.to_dict(), vision_config=vision, image_token_id=4, pad_token_id=1, eos_token_id=2
        )
    )
    for name, weight in net.named_parameters():
        if "vision_tower" in name and weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.3)  # so that captions depend on the image
    net.save_pretrained(folder)
    images = CLIPImageProcessor(size={"height": SIDE, "width": SIDE}, do_center_crop=False, image_seq_length=5)
    kinds = ("pure_text", "description_with_bboxes", "phrase_grounding", "description_with_bboxes_or_polygons")
    tasks: dict[str, dict[str, object]] = {kind: {} for kind in kinds}
    Florence2Processor(images, tokenizer(others), post_processor_config=tasks).save_pretrained(folder)
    return folder
