"""Sec. 3.3's adapter and its tokens: against GLIGEN's block, and as properties that hold for any weights."""

import math
from typing import Any

import pytest
import torch
from diffusers.models.attention import GatedSelfAttentionDense
from torch import Tensor

from model.config import DeparturesConfig, ModelConfig
from model.networks.adapter import (
    AdapterInputs,
    SubjectAdapter,
    SubjectTokens,
    cell_centres,
    fourier,
    patch_centres,
    position_code,
)

B, N, R, P, WIDTH, TOKEN_WIDTH = 2, 16, 2, 4, 32, 24


def adapter(beta: float = 1.0, feed_forward: bool = True, gamma: float = 0.6, **settings: Any) -> SubjectAdapter:
    torch.manual_seed(0)
    config = ModelConfig(beta=beta, adapter_feed_forward=feed_forward, **settings)
    made = SubjectAdapter(0, WIDTH, 4, WIDTH, TOKEN_WIDTH, config)
    with torch.no_grad():
        made.gamma.fill_(gamma)
        if made.feed_forward is not None:
            made.feed_forward.gamma.fill_(gamma)
    return made


def inputs() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(B, N, WIDTH, requires_grad=True), torch.randn(B, R * P, TOKEN_WIDTH, requires_grad=True)


def gligen_of(ours: SubjectAdapter) -> GatedSelfAttentionDense:
    """GLIGEN's unsliced block with the same weights."""
    names = {"gamma": "alpha_attn", "feed_forward.gamma": "alpha_dense", "S.from_tokens": "linear", "S.norm": "norm1"}
    names |= {"S.to_out": "attn.to_out.0", "S.to_": "attn.to_", "feed_forward.norm": "norm2"}
    names |= {"feed_forward.feed_forward": "ff"}
    state = {}
    for name, weight in ours.state_dict().items():
        old = next(old for old in names if name.startswith(old))
        state[names[old] + name.removeprefix(old)] = weight
    theirs = GatedSelfAttentionDense(WIDTH, TOKEN_WIDTH, 4, WIDTH // 4)
    theirs.load_state_dict(state)
    return theirs


def test_slicing_is_exact():
    """Gate C2: outputs within 1e-6 and gradients within 1e-5 of the form that asks queries for all tokens."""
    ours = adapter()
    theirs = gligen_of(ours)
    results, gradients = [], []
    for block in (lambda L_a, h_e: ours(L_a, AdapterInputs(h_e)), theirs):
        L_a, h_e = inputs()
        out = block(L_a, h_e)
        out.square().sum().backward()
        results.append(out)
        gradients.append([L_a.grad, h_e.grad])
    assert (results[0] - results[1]).abs().max() <= 1e-6
    weights = [ours.gamma, ours.S.to_k.weight, ours.S.from_tokens.weight, ours.S.norm.weight]
    unsliced = [theirs.alpha_attn, theirs.attn.to_k.weight, theirs.linear.weight, theirs.norm1.weight]
    gradients[0] += [weight.grad for weight in weights]
    gradients[1] += [weight.grad for weight in unsliced]
    for one, other in zip(*gradients, strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()
    assert (results[0] - inputs()[0]).abs().max() > 0.1


def test_the_equation_without_the_feed_forward():
    ours = adapter(beta=0.5, feed_forward=False)
    L_a, h_e = inputs()
    S = ours.S(L_a, ours.S.keys_values(h_e), None)
    assert torch.equal(ours(L_a, AdapterInputs(h_e)), L_a + 0.5 * math.tanh(0.6) * S)


@pytest.mark.parametrize("feed_forward", [True, False])
def test_a_new_adapter_changes_nothing_and_yet_its_gates_learn(feed_forward):
    new = adapter(gamma=0.0, feed_forward=feed_forward)
    L_a, h_e = inputs()
    out = new(L_a, AdapterInputs(h_e))
    assert torch.equal(out, L_a)
    out.square().sum().backward()
    assert all(weight.grad.abs() > 0 for name, weight in new.named_parameters() if name.endswith("gamma"))


def test_beta_0_turns_the_adapter_off():
    L_a, h_e = inputs()
    assert torch.equal(adapter(beta=0.0)(L_a, AdapterInputs(h_e)), L_a)


def test_images_without_tokens_pass_unchanged():
    L_a, h_e = inputs()
    ours = adapter()
    out = ours(L_a, AdapterInputs(h_e[:1]))
    assert torch.equal(out[1:], L_a[1:])
    assert torch.allclose(out[:1], ours(L_a, AdapterInputs(h_e))[:1], atol=1e-6)


def test_a_gate_turns_the_adapter_off_by_image():
    L_a, h_e = inputs()
    ours = adapter()
    out = ours(L_a, AdapterInputs(h_e, gate=torch.tensor([0.0, 1.0])))
    assert torch.equal(out[0], L_a[0])
    assert torch.equal(out[1], ours(L_a, AdapterInputs(h_e))[1])


def test_keys_and_values_projected_in_advance_give_the_same_result():
    L_a, h_e = inputs()
    ours = adapter()
    ahead = AdapterInputs(h_e, keys_values=[ours.S.keys_values(h_e)])
    assert torch.equal(ours(L_a, ahead), ours(L_a, AdapterInputs(h_e)))


# Departures of the miniature


def test_position_code_by_hand():
    (code,) = position_code(torch.tensor([[0.25, 0.6]])).tolist()
    angles = [[place * math.pi * 2**k for k in range(5)] for place in (0.25, 0.6)]
    expected = [wave(angle) for row in angles for wave in (math.sin, math.cos) for angle in row]
    assert code == pytest.approx(expected, abs=1e-5)


def test_patch_centres_are_those_of_a_pasted_picture():
    wide = torch.tensor([[[0.2, 0.4, 0.8, 0.6]]])
    padded = patch_centres(wide, 4, padded=True)[0]
    assert torch.allclose(padded, torch.tensor([[0.35, 0.35], [0.65, 0.35], [0.35, 0.65], [0.65, 0.65]]))
    cut = patch_centres(wide, 4, padded=False)[0]
    assert torch.allclose(cut, torch.tensor([[0.45, 0.45], [0.55, 0.45], [0.45, 0.55], [0.55, 0.55]]))
    assert torch.allclose(patch_centres(torch.tensor([[[0.0, 0.0, 1.0, 1.0]]]), 16, padded=True)[0], cell_centres(16))


def test_keys_that_start_as_queries_attend_to_their_own_position():
    ours = adapter(departures=DeparturesConfig(patch_positions=True, keys_start_as_queries=True))
    assert torch.equal(ours.S.to_k.weight, ours.S.to_q.weight)
    centres = patch_centres(torch.tensor([[[0.0, 0.0, 1.0, 1.0]]]), N, padded=True)
    h_e = torch.randn(1, 1, TOKEN_WIDTH).expand(1, N, TOKEN_WIDTH)
    queries = ours.S._split(ours.S.to_q(ours.S._add_position_code(torch.zeros(1, N, WIDTH), cell_centres(16))))
    keys, _ = ours.S.keys_values(h_e, centres)
    logits = (queries @ keys.transpose(-1, -2)).sum(1)[0]
    own = torch.eye(N, dtype=torch.bool)
    assert logits[own].mean() > logits[~own].mean() + 2 * logits[~own].std()


def test_patch_centres_matter_only_with_the_departure_on():
    patches, boxes, present = subjects()
    tokens = tokens_of()
    assert tokens.inputs(patches, boxes, present).patch_centres is None
    placing, ours = (make(departures=DeparturesConfig(patch_positions=True)) for make in (tokens_of, adapter))
    L_a, _ = inputs()
    here = placing.inputs(patches, boxes, present, full=True)
    away = AdapterInputs(here.tokens, patch_centres=here.patch_centres.flip(1))
    assert not torch.allclose(ours(L_a, here), ours(L_a, away))


def test_a_gate_may_start_open():
    open_gate = SubjectAdapter(
        0, WIDTH, 4, WIDTH, TOKEN_WIDTH, ModelConfig(departures=DeparturesConfig(gate_start=0.3))
    )
    assert open_gate.gamma.item() == pytest.approx(0.3)


# The tokens h_e


def tokens_of(**settings: object) -> SubjectTokens:
    torch.manual_seed(2)
    made = SubjectTokens(P, 8, TOKEN_WIDTH, ModelConfig.model_validate(settings))
    with torch.no_grad():
        for weight in made.parameters(recurse=False):
            weight.normal_()
    return made


def subjects(images: int = B) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(3)
    return torch.randn(images, R, P, 8), torch.rand(images, R, 4), torch.ones(images, R, dtype=torch.bool)


def test_fourier_by_hand():
    code = fourier(torch.tensor([[[0.0, 0.25, 0.5, 1.0]]]))[0, 0]
    assert code.shape == (64,)
    by_coordinate = code.reshape(4, 16)
    for coordinate, row in zip((0.0, 0.25, 0.5, 1.0), by_coordinate, strict=True):
        angles = [coordinate * 100 ** (k / 8) for k in range(8)]
        expected = [*map(math.sin, angles), *map(math.cos, angles)]
        assert row.tolist() == pytest.approx(expected, abs=1e-5)


PACKED, PADDED = {"absent_slots": "packed"}, {"absent_slots": "null_padded", "max_subjects": 3}


@pytest.mark.parametrize("settings", [PACKED, PADDED], ids=["packed", "padded"])
def test_what_an_absent_slot_holds_has_no_effect_not_even_nan(settings):
    tokens = tokens_of(**settings)
    patches, boxes, present = subjects()
    present[0, 1] = False
    ours = adapter()
    L_a, _ = inputs()
    clean = ours(L_a, tokens.inputs(patches, boxes, present))
    patches[0, 1], boxes[0, 1] = torch.nan, torch.nan
    dirty = ours(L_a, tokens.inputs(patches, boxes, present))
    assert torch.equal(clean, dirty)
    dirty.sum().backward()
    assert all(weight.grad.isfinite().all() for weight in tokens.parameters())


def test_packed_an_absent_slot_has_no_tokens():
    tokens, ours = tokens_of(**PACKED), adapter()
    patches, boxes, present = subjects()
    present[:, 1] = False
    L_a, _ = inputs()
    two_slots = ours(L_a, tokens.inputs(patches, boxes, present))
    one_slot = ours(L_a, tokens.inputs(patches[:, :1], boxes[:, :1], present[:, :1], full=True))
    assert torch.allclose(two_slots, one_slot, atol=1e-6)


def test_packed_an_image_without_subjects_has_no_adapter():
    patches, boxes, present = subjects()
    present[0] = False
    L_a, _ = inputs()
    out = adapter()(L_a, tokens_of(**PACKED).inputs(patches, boxes, present))
    assert torch.equal(out[0], L_a[0])
    assert not torch.equal(out[1], L_a[1])


def test_padded_every_image_has_all_slots():
    tokens = tokens_of(**PADDED)
    patches, boxes, present = subjects()
    filled = tokens.inputs(patches, boxes, present)
    assert filled.tokens.shape == (B, 3 * P, TOKEN_WIDTH)
    assert filled.bias is None
    null = tokens.mlp(torch.cat([tokens.null_patches, tokens.null_position], dim=-1))
    assert torch.allclose(filled.tokens[0, -P:], null, atol=1e-6)


def test_full_slots_need_no_attention_mask():
    patches, boxes, present = subjects()
    without, needed = (tokens_of().inputs(patches, boxes, present, full=full) for full in (True, False))
    assert without.bias is None
    assert needed.bias is not None
    L_a, _ = inputs()
    assert torch.allclose(adapter()(L_a, without), adapter()(L_a, needed), atol=1e-6)


@pytest.mark.parametrize("settings", [PACKED, PADDED, PADDED | {"box_condition": "null_for_single"}])
def test_strength_0_is_absent_and_1_changes_nothing(settings):
    tokens, ours = tokens_of(**settings), adapter()
    patches, boxes, present = subjects()
    L_a, _ = inputs()

    def adapted(strengths: list[float], present: Tensor = present) -> Tensor:
        return ours(L_a, tokens.inputs(patches, boxes, present, torch.tensor([strengths] * B)))

    absent = present.clone()
    absent[:, 1] = False
    assert torch.allclose(adapted([1.0, 1.0]), ours(L_a, tokens.inputs(patches, boxes, present, full=True)), atol=1e-6)
    assert torch.allclose(adapted([1.0, 0.0]), adapted([1.0, 1.0], absent), atol=1e-6)
    halfway = (adapted([1.0, 0.5]) - adapted([1.0, 0.0])).abs().max()
    assert 0 < halfway < (adapted([1.0, 1.0]) - adapted([1.0, 0.0])).abs().max()


def test_the_box_of_a_single_subject_can_be_left_out():
    tokens = tokens_of(box_condition="null_for_single")
    patches, boxes, present = subjects()
    present[0, 1] = False
    elsewhere = boxes + 0.1
    here, there = tokens(patches, boxes, present), tokens(patches, elsewhere, present)
    assert torch.equal(here[0], there[0])
    assert not torch.allclose(here[1], there[1])


def test_without_box_coordinates_the_box_is_not_an_input():
    tokens = tokens_of(use_box_coordinates=False)
    patches, boxes, present = subjects()
    assert tokens.mlp[0].normalized_shape == (8,)
    assert torch.equal(tokens(patches, boxes, present), tokens(patches, boxes + 0.1, present))


def test_null_features_are_trained_only_where_they_are_used():
    assert {name for name, _ in tokens_of(**PACKED).named_parameters(recurse=False)} == set()
    assert {name for name, _ in tokens_of(**PADDED).named_parameters(recurse=False)} == {
        "null_patches",
        "null_position",
    }
    single = tokens_of(box_condition="null_for_single")
    assert {name for name, _ in single.named_parameters(recurse=False)} == {"null_position"}
