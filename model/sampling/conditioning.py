"""The conditions of a batch from its prompts, subjects and places.

The caller chooses the networks' device, their precision and autocast.

Axes: B images, R reference subjects, H W rows and columns of the latent, T text tokens, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from model.inputs.batch import ABSENT, PromptTokens
from model.inputs.layout import Place, Size
from model.inputs.prompt import Prompt
from model.networks.unet import Conditions
from model.sampling.references import PlacedSubjects, ReferenceEncoder
from model.sampling.rows import Row
from model.subject_diffusion import SubjectDiffusion


@dataclass(frozen=True)
class Texts:
    """Text conditions of a batch."""

    positive: Float[Tensor, "B T D"]
    """Text condition C of the prompts."""
    negative: Float[Tensor, "_b T D"]
    """Text condition of the predictions without text: of the empty prompt, or of a negative prompt for each image."""


@dataclass(frozen=True)
class EncodedRows:
    """The conditions of a batch, with its tokens."""

    tokens: PromptTokens
    """Tokens of prompts and clauses."""
    conditions: Conditions
    """Conditions of the prediction with text and image."""


def slots_of(rows: Sequence[Row]) -> int:
    """Return the number of slots R of a batch."""
    return max(1, *(len(row.subjects) for row in rows))


def prompt_of(row: Row, slots: int) -> Prompt:
    """Return the prompt of an image with the labels of its slots."""
    labels = [subject.label for subject in row.subjects]
    return Prompt(row.prompt, [*labels, *[None] * (slots - len(labels))])


def encode_rows(
    net: SubjectDiffusion,
    encoder: ReferenceEncoder,
    rows: Sequence[Row],
    places: Sequence[Sequence[Place]],
    size: Size,
) -> EncodedRows:
    """Return the conditions of a batch.

    Args:
        net: the model.
        encoder: encodes the subjects' photos.
        rows: prompts and subjects.
        places: places of each image's subjects.
        size: rows and columns of the latent.

    Raises:
        PromptError: a prompt contains the placeholder, or its clauses alone are too long.
    """
    slots, device = slots_of(rows), net.empty_token_ids.device
    tokens = tokenize(net, [prompt_of(row, slots) for row in rows])
    boxes, masks = torch.zeros(len(rows), slots, 4), torch.zeros(len(rows), slots, *size)
    for at, of_row in enumerate(places):
        for slot, place in enumerate(of_row):
            boxes[at, slot], masks[at, slot] = torch.tensor(place.bounds), torch.from_numpy(place.mask)
    present = tokens.placeholder_positions != ABSENT
    location_mask = net.location_mask(boxes.to(device), masks.to(device), present, size)
    placed = [
        PlacedSubjects(row.subjects, [place.bounds for place in of_row])
        for row, of_row in zip(rows, places, strict=True)
    ]
    references = encoder(net, placed, slots, size)
    text = net.text_encoder(tokens.token_ids, tokens.placeholder_positions, references.cls)
    return EncodedRows(tokens, Conditions(text, references.adapter, location_mask))


def encode_text(net: SubjectDiffusion, texts: Sequence[str]) -> Float[Tensor, "B T D"]:
    """Return the text condition of texts without clauses, such as negative prompts."""
    tokens = tokenize(net, [Prompt(text) for text in texts])
    no_embeddings = net.noise.alphas_cumprod.new_empty(len(texts), 0, 1)
    text: Tensor = net.text_encoder(tokens.token_ids, tokens.placeholder_positions, no_embeddings)
    return text


def tokenize(net: SubjectDiffusion, prompts: Sequence[Prompt]) -> PromptTokens:
    """Return the tokens of prompts on the networks' device."""
    device, tokens = net.empty_token_ids.device, net.prompts(prompts)
    return PromptTokens(
        token_ids=tokens.token_ids.to(device),
        placeholder_positions=tokens.placeholder_positions.to(device),
        entity_tokens=tokens.entity_tokens.to(device),
    )
