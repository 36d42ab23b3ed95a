"""A BLIP-2 of about 2.4 million weights: the real class, at 192 px, with a word-level vocabulary.

`build` returns a network to train. `babble` makes an untrained network write random sentences that differ between
pictures, so that the stages after the captions have input.
"""

import copy
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    BlipImageProcessor,
    OPTConfig,
)

from infra.config import Config
from infra.ranges import Count, Pixels
from miniature.networks.vocabulary import Vocabulary

ARTICLES = frozenset({"a", "an", "the"})
JOINTS = frozenset({"and", ",", "on", "by", "in", "with", "near", "of"})
"""Words between the nouns of a random sentence."""
PRONOUNS = frozenset({"it", "she", "something", "everything", "nothing", "someone", "everyone", "anyone", "anything"})
"""Pronouns that may take the place of nouns: a random sentence with these alone has no noun."""
_INIT_STD = 0.05


class Blip2Size(Config):
    """Size of the network; by default about 2.4 million weights, most of them in the vision part."""

    image_px: Pixels = 192
    """Side of the image in pixels."""
    patch_px: Pixels = 16
    """Side of a patch in pixels."""
    width: Count = 160
    """Width of all hidden layers."""
    heads: Count = 5
    """Number of attention heads; must divide the width."""
    vision_layers: Count = 4
    """Number of layers of the vision encoder."""
    qformer_layers: Count = 2
    """Number of layers of the Q-Former."""
    text_layers: Count = 2
    """Number of layers of the language model."""
    queries: Count = 16
    """Number of embeddings of an image that the language model sees."""
    max_text_tokens: Count = 96
    """Largest number of tokens of queries, prompt and caption together."""


SMALL = Blip2Size()


def build(vocabulary: Vocabulary, seed: int, size: Blip2Size = SMALL) -> Blip2ForConditionalGeneration:
    """Return a network with random weights that depend on `seed` alone, in evaluation mode, float32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Blip2ForConditionalGeneration(_network_config(vocabulary, size))
        with torch.no_grad():
            net.query_tokens.normal_()  # transformers initialises them to zero, which makes them identical
    return net.eval()


def save(
    net: Blip2ForConditionalGeneration, folder: Path, vocabulary: Vocabulary, dtype: torch.dtype = torch.float32
) -> None:
    """Write the folder that `from_pretrained` reads, in transformers' layout, with weights in `dtype`."""
    image_px = net.config.vision_config.image_size
    images = BlipImageProcessor(size={"height": image_px, "width": image_px})
    copy.deepcopy(net).to(dtype).save_pretrained(folder)
    Blip2Processor(images, vocabulary.tokenizer(), num_query_tokens=net.config.num_query_tokens).save_pretrained(folder)


@torch.no_grad()
def babble(net: Blip2ForConditionalGeneration, vocabulary: Vocabulary, seed: int) -> Blip2ForConditionalGeneration:
    """Change the untrained `net` so that it writes sentences like "the cat on a drum" that depend on the picture.

    With random weights alone it repeats one word, nearly the same for all pictures.
    """
    noise = torch.Generator().manual_seed(seed)
    side = net.config.vision_config.image_size
    mosaics = torch.nn.functional.interpolate(2 * torch.randn(64, 3, 4, 4, generator=noise), size=side)
    _scale_image_response(net, mosaics)
    _impose_word_order(net, vocabulary, noise)
    _remove_common_output(net, mosaics)
    return net


def _network_config(vocabulary: Vocabulary, size: Blip2Size) -> Blip2Config:
    ids = vocabulary.ids
    vision = Blip2VisionConfig(
        image_size=size.image_px,
        patch_size=size.patch_px,
        hidden_size=size.width,
        intermediate_size=3 * size.width,
        num_hidden_layers=size.vision_layers,
        num_attention_heads=size.heads,
        initializer_range=_INIT_STD,
    )
    qformer = Blip2QFormerConfig(
        vocab_size=len(ids),
        hidden_size=size.width,
        encoder_hidden_size=size.width,
        intermediate_size=2 * size.width,
        num_hidden_layers=size.qformer_layers,
        num_attention_heads=size.heads,
        cross_attention_frequency=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=_INIT_STD,
    )
    text = OPTConfig(
        vocab_size=len(ids),
        hidden_size=size.width,
        word_embed_proj_dim=size.width,
        ffn_dim=2 * size.width,
        num_hidden_layers=size.text_layers,
        num_attention_heads=size.heads,
        max_position_embeddings=size.max_text_tokens,
        dropout=0.0,
        init_std=_INIT_STD,
        bos_token_id=ids["</s>"],
        eos_token_id=ids["</s>"],
        pad_token_id=ids["<pad>"],
    )
    return Blip2Config(
        vision_config=vision.to_dict(),
        qformer_config=qformer.to_dict(),
        text_config=text.to_dict(),
        num_query_tokens=size.queries,
        image_token_index=ids[vocabulary.image or "<image>"],
    )


def _scale_image_response(net: Blip2ForConditionalGeneration, mosaics: Tensor) -> None:
    """Centre the image embeddings that the language model sees and scale them to variance 1 over images."""
    for layer in net.qformer.encoder.layer:
        layer.crossattention.attention.value.weight *= 3
        layer.crossattention.output.dense.weight *= 3
    patches = net.vision_model(mosaics).last_hidden_state
    queries = net.query_tokens.expand(len(mosaics), -1, -1)
    states = net.qformer(query_embeds=queries, encoder_hidden_states=patches).last_hidden_state
    projection = net.language_projection
    embedded: Tensor = states @ projection.weight.T
    scale = (embedded - embedded.mean(0)).std()
    projection.weight /= scale
    projection.bias.copy_(-embedded.mean((0, 1)) / scale)
    attention = net.language_model.model.decoder.layers[0].self_attn
    attention.v_proj.weight *= 2
    attention.out_proj.weight *= 2


def _impose_word_order(net: Blip2ForConditionalGeneration, vocabulary: Vocabulary, noise: torch.Generator) -> None:
    """Use three dimensions of the embedding to alternate articles, nouns and the words between them."""
    decoder = net.language_model.model.decoder
    words, places = decoder.embed_tokens.weight, decoder.embed_positions.weight
    words[:, :3] = 0.0
    for token, index in vocabulary.ids.items():
        if token in PRONOUNS:
            words[index] *= 1.35  # more likely
        if token not in {"<s>", "<pad>", "<unk>", "<image>"}:
            words[index, 0 if token in ARTICLES else 2 if token in JOINTS | {"</s>"} else 1] = 0.8
    words[vocabulary.ids["</s>"], 2] += 0.05  # sentences end sooner
    places.normal_(0, 0.2, generator=noise)
    places[:, :3] = 0.0
    first = decoder.embed_positions.offset + net.config.num_query_tokens  # the start token, which precedes an article
    for place in range(len(places)):
        places[place, (place - first) % 3] = 7.0


def _remove_common_output(net: Blip2ForConditionalGeneration, mosaics: Tensor) -> None:
    """Subtract the output that all images have in common, except in the dimensions of the word order."""
    tokens = net.generate(mosaics, max_new_tokens=16, min_new_tokens=16, do_sample=False)
    states = net(mosaics, input_ids=tokens, output_hidden_states=True).language_model_outputs.hidden_states[-1]
    common = states[:, net.config.num_query_tokens :].mean((0, 1))
    net.language_model.model.decoder.final_layer_norm.bias[3:] -= common[3:]
