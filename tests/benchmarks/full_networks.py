"""The published networks at full size with random weights, in the folders that the ordinary backends load.

    python -m tests.benchmarks.full_networks FOLDER --device cuda

Architectures are those of Salesforce/blip2-opt-2.7b, IDEA-Research/grounding-dino-tiny and facebook/sam-vit-huge.
Tokenizers are the small world's, whose few words use the first rows of the networks' vocabularies; nothing is
downloaded. Random weights are set so that every stage gets the amount of work that real ones would give it: captions
of a fixed length that name some things, a few boxes an image that are worth a mask, masks between empty and full.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import (
    BertConfig,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    BlipImageProcessor,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    OPTConfig,
    SamConfig,
    SamModel,
    SwinConfig,
)

from labeling.backends.sam.checkpoint import SamArchitecture
from labeling.backends.sam.convert import configuration, processor
from miniature.networks.grounding_dino import spread_boxes, spread_scores
from miniature.networks.sam import spread_areas
from miniature.networks.vocabulary import Vocabulary, detection_vocabulary
from miniature.world.scenes import ScenesConfig, compose, phrases

STD = 0.02
SHARD = "4GB"
FILLERS = ("it", "they", "something", "quietly", "very", "often", "almost", "here", "there", "now", "ever", "slowly")
"""What captions say beside the things they name: no nouns."""
FILLER_WEIGHT = 1.4
"""Of the fillers' embeddings, so that most of a caption is filler."""
PLACE_STD = 1.0
"""Of position embeddings: places differ enough that captions do not repeat one phrase."""
PRIOR_LOGIT = -1.0
"""Of a token of the detector's that says nothing: just above the default threshold of 0.25."""
BOX_STD = 0.1
"""Of the last weights of its box heads: boxes of 0.1 to 0.5 of the image."""
PATCH_SHARE = 0.02
"""What is left of the segmenter's embedding of the picture beside its encoding of places."""
BLOB_GAIN = 10.0
"""How much more the masks' logits differ between places."""
SAM_H = SamArchitecture(
    image_px=1024,
    patch_px=16,
    width=1280,
    depth=32,
    heads=16,
    mlp_width=5120,
    window=14,
    global_layers=(7, 15, 23, 31),
    embedding_channels=256,
    mask_input_channels=16,
    masks=3,
    decoder_depth=2,
    decoder_heads=8,
    decoder_mlp_width=2048,
    decoder_downsample=2,
    iou_head_width=256,
)


def blip2_architecture() -> Blip2Config:
    """ViT-g/14 at 224 px of 39 layers, Q-Former of BERT-base with 32 queries, OPT-2.7b."""
    text = OPTConfig(
        vocab_size=50304,
        hidden_size=2560,
        word_embed_proj_dim=2560,
        ffn_dim=10240,
        num_hidden_layers=32,
        num_attention_heads=32,
        eos_token_id=50118,
    )
    return Blip2Config(
        vision_config=Blip2VisionConfig().to_dict(),
        qformer_config=Blip2QFormerConfig().to_dict(),
        text_config=text.to_dict(),
        num_query_tokens=32,
        image_token_index=50265,
    )


def grounding_dino_architecture() -> GroundingDinoConfig:
    """Swin-T, BERT-base, 900 queries, 256 text tokens."""
    swin = SwinConfig(out_features=["stage2", "stage3", "stage4"])
    return GroundingDinoConfig(backbone_config=swin, text_config=BertConfig())


def sam_architecture() -> SamConfig:
    """ViT-H at 1024 px, with an initialisation under which picture and box matter."""
    config = configuration(SAM_H)
    config.initializer_range = 0.1
    config.vision_config.initializer_range = STD
    config.vision_config.scale = 1.0
    return config


def write_full_networks(folder: Path, seed: int, device: torch.device) -> None:
    """Write `blip2/` (bfloat16), `grounding_dino/` and `sam/` under `folder`: 11 GB; in memory one after the other."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        write_blip2(folder / "blip2", blip2_architecture(), device)
        write_grounding_dino(folder / "grounding_dino", grounding_dino_architecture())
        write_sam(folder / "sam", sam_architecture())


@torch.no_grad()
def write_blip2(
    folder: Path, architecture: Blip2Config, device: torch.device, dtype: torch.dtype = torch.bfloat16
) -> None:
    """A captioner that says `max_new_tokens` tokens, whatever it sees: fillers, and now and then a thing."""
    vocabulary = _phrases()
    side = architecture.vision_config.image_size
    images = BlipImageProcessor(size={"height": side, "width": side})
    with torch.device("meta"):
        net = Blip2ForConditionalGeneration(architecture).eval()
    net = net.to(dtype).to_empty(device=device)
    net.apply(_randomize)
    net.tie_weights()
    _say_phrases(net, vocabulary)
    _heed_the_image(net, images(_pictures(), return_tensors="pt")["pixel_values"].to(device))
    net.save_pretrained(folder, max_shard_size=SHARD)
    tokenizer = vocabulary.tokenizer()
    Blip2Processor(images, tokenizer, num_query_tokens=architecture.num_query_tokens).save_pretrained(folder)


def write_grounding_dino(folder: Path, architecture: GroundingDinoConfig) -> None:
    """A detector of which about half of the boxes score above the threshold, so that overlaps decide how many stay."""
    net = GroundingDinoForObjectDetection(architecture).eval()
    spread_boxes(net, std=BOX_STD)
    spread_scores(net, PRIOR_LOGIT)
    net.save_pretrained(folder)
    tokenizer = detection_vocabulary(phrases()).tokenizer()
    GroundingDinoProcessor(GroundingDinoImageProcessor(), tokenizer).save_pretrained(folder)


def write_sam(folder: Path, architecture: SamConfig) -> None:
    """A segmenter whose masks differ in area."""
    net = SamModel(architecture).eval()
    _smooth_masks(net)
    spread_areas(net, SAM_H, pictures=1)
    net.save_pretrained(folder)
    processor(SAM_H.image_px, 4 * SAM_H.image_px // SAM_H.patch_px).save_pretrained(folder)


def _pictures() -> list[NDArray[np.uint8]]:
    side = ScenesConfig(width_px=(512, 512), height_px=(512, 512))
    return [compose((0, i), side).image for i in range(4)]


def _phrases() -> Vocabulary:
    """One token a phrase: a network that repeats itself then says "a fox a fox", and not one noun of two foxes."""
    roles = {"pad_token": "<pad>", "bos_token": "</s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokens = ("<s>", "<pad>", "</s>", "<unk>", "<image>", *FILLERS, *phrases())
    return Vocabulary(tokens, tuple(roles.items()), "</s> $A", image="<image>")


def _randomize(module: nn.Module) -> None:
    """Normal weights, no biases; the identity for norms. Works on any device and type, where transformers' own
    initialisation leaves the vision part dead."""
    for name, parameter in module.named_parameters(recurse=False):
        if name == "bias":
            parameter.zero_()
        elif isinstance(module, nn.LayerNorm):
            parameter.fill_(1.0)
        else:
            parameter.normal_(std=STD)


def _say_phrases(net: Any, vocabulary: Vocabulary) -> None:
    """Phrases only, so nothing that ends a text: a token whose embedding is zero has the logit zero."""
    words, places = net.get_input_embeddings().weight, net.language_model.model.decoder.embed_positions.weight
    first = len(vocabulary.tokens) - len(FILLERS) - len(phrases())
    words[:first] = 0.0
    words[first : first + len(FILLERS)] *= FILLER_WEIGHT
    words[len(vocabulary.tokens) :] = 0.0
    places *= PLACE_STD / STD


def _heed_the_image(net: Any, pixels: Tensor) -> None:
    """Take what all pictures have in common out of what the language model sees; what is left gets variance 1."""
    dtype, projection = net.dtype, net.language_projection
    seen = net.vision_model.float()(pixels).last_hidden_state
    queries = net.query_tokens.float().expand(len(pixels), -1, -1)
    found = net.qformer.float()(query_embeds=queries, encoder_hidden_states=seen).last_hidden_state
    embedded: Tensor = found @ projection.weight.float().T
    scale = (embedded - embedded.mean(0)).std()
    projection.weight /= scale
    projection.bias.copy_(-embedded.mean((0, 1)) / scale)
    net.to(dtype)


@torch.no_grad()
def _smooth_masks(net: Any) -> None:
    """Blobs of some kilobytes, not speckle of a hundred: places count more than patches, and upscaling has no grain."""
    net.vision_encoder.neck.layer_norm2.weight *= PATCH_SHARE
    for upscaling, gain in ((net.mask_decoder.upscale_conv1, 1.0), (net.mask_decoder.upscale_conv2, BLOB_GAIN)):
        upscaling.weight.copy_(gain * upscaling.weight.mean((2, 3), keepdim=True))


def main() -> None:
    parser = argparse.ArgumentParser(description="Write full-size networks with random weights.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", type=torch.device, default="cuda")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    write_full_networks(given.folder, given.seed, given.device)


if __name__ == "__main__":
    main()
