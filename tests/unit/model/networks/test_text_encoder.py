"""T_theta: the base's text encoder, with the subjects' embeddings among the tokens'."""

import pytest
import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from model.networks.text_encoder import TextEncoder

B, T, WIDTH, SUBJECT = 2, 9, 32, 24
IDS = torch.tensor([[97, 5, 6, 7, 8, 98, 0, 0, 0], [97, 5, 9, 98, 0, 0, 0, 0, 0]])
NOWHERE = torch.full((B, 2), -1)


def encoder(subject_width: int | None = SUBJECT) -> TextEncoder:
    torch.manual_seed(0)
    settings = {"vocab_size": 99, "hidden_size": WIDTH, "intermediate_size": 64, "max_position_embeddings": T}
    clip = CLIPTextModel(
        CLIPTextConfig(**settings, num_hidden_layers=2, num_attention_heads=2, bos_token_id=97, eos_token_id=98)
    )
    return TextEncoder(clip, subject_width).eval()


def v_g() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(B, 2, SUBJECT)


def test_without_subjects_the_output_is_that_of_the_base():
    ours = encoder()
    theirs = ours.clip(IDS).last_hidden_state
    assert torch.allclose(ours(IDS, NOWHERE, v_g()), theirs, atol=1e-6)
    assert torch.allclose(ours(IDS, NOWHERE[:, :0], v_g()[:, :0]), theirs, atol=1e-6)
    assert torch.allclose(encoder(subject_width=None)(IDS, NOWHERE + 3, v_g()), theirs, atol=1e-6)


def test_cls_takes_the_placeholders_place_before_positions_are_added():
    ours, at = encoder(), torch.tensor([[4, 2], [-1, 1]])
    embeddings: list[Tensor] = []
    handle = ours.clip.embeddings.register_forward_hook(lambda _module, _args, out: embeddings.append(out))
    ours(IDS, at, v_g())
    handle.remove()
    projected, positions = ours.subject_mlp(v_g()), ours.clip.embeddings.position_embedding.weight
    expected = ours.clip.embeddings.token_embedding(IDS) + positions
    expected[0, 4] = projected[0, 0] + positions[4]
    expected[0, 2] = projected[0, 1] + positions[2]
    expected[1, 1] = projected[1, 1] + positions[1]
    assert torch.allclose(embeddings[0], expected, atol=1e-6)


def test_tokens_before_the_placeholder_do_not_see_it():
    ours = encoder()
    moved = (ours(IDS, torch.tensor([[4, -1]] * B), v_g()) - ours(IDS, NOWHERE, v_g())).abs().amax(dim=-1)
    assert (moved[:, :4] < 1e-6).all()
    assert (moved[:, 4:] > 1e-4).all()


def test_an_absent_subject_has_no_effect_not_even_nan():
    ours, at = encoder(), torch.tensor([[4, -1], [-1, -1]])
    embedding = v_g()
    clean = ours(IDS, at, embedding)
    embedding[0, 1], embedding[1] = torch.nan, torch.nan
    dirty = ours(IDS, at, embedding)
    assert torch.equal(clean, dirty)
    dirty.sum().backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in ours.parameters())


def test_new_rows_of_the_vocabulary_are_the_mean_of_the_others():
    ours = encoder()
    before = ours.clip.embeddings.token_embedding.weight.clone()
    ours.grow_vocabulary(100)
    after = ours.clip.embeddings.token_embedding.weight
    assert torch.equal(after[:99], before)
    assert torch.allclose(after[99], before.mean(0))
    ours.grow_vocabulary(50)
    assert len(ours.clip.embeddings.token_embedding.weight) == 100


@pytest.mark.parametrize("at", [4, 1])
def test_gradients_reach_the_perceptron(at):
    ours = encoder()
    ours(IDS, torch.tensor([[at, -1]] * B), v_g()).square().sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in ours.subject_mlp.parameters())
