"""The whole model of Fig. 3: its trained parts, its size, and the effect of each input."""

from collections.abc import Callable
from dataclasses import replace

import open_clip
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from infra.config import load
from model.config import DropConfig, ModelConfig
from model.inputs.batch import ABSENT, ImageFeatures, SubjectBatch
from model.networks.attention_maps import MapRecorder
from model.networks.unet import Conditions
from model.objective.drop import DropMasks, draw_drops
from model.subject_diffusion import SubjectDiffusion, TrainingLoss
from tests.small_model import LATENT, open_gates, small_batch, small_config
from tests.unit.model.test_config import CONFIGS, Model

NEVER = DropConfig(text=0, image=0, layout=0, all=0)
PADDED = {"absent_slots": "null_padded", "max_subjects": 3}


def loss(net: SubjectDiffusion, batch: SubjectBatch, seed: int = 0) -> TrainingLoss:
    return net.training_loss(batch, torch.Generator().manual_seed(seed))


def features_of(net: SubjectDiffusion, batch: SubjectBatch) -> SubjectBatch:
    """Return `batch` with encoded subjects."""
    return replace(batch, subject_images=None, image_features=net.image_encoder(batch.subject_images))


def predicted(net: SubjectDiffusion, batch: SubjectBatch, recorder: MapRecorder | None = None) -> Tensor:
    """Return the prediction for `batch`, which has encoded subjects, at one latent and timestep."""
    torch.manual_seed(0)
    l_m = net.location_mask(batch.boxes, batch.masks, batch.present, (LATENT, LATENT))
    conditions = net.conditions(batch.prompts, batch.image_features, batch.boxes, batch.present, l_m)
    z_t, t = torch.randn(len(l_m), 4, LATENT, LATENT), torch.full((len(l_m),), 500)
    return net.unet(z_t, t, conditions, recorder)


# What is trained


def test_trainable_is_exactly_app_a_s_list(build):
    """Text encoder, conv_in, adapters, perceptrons, W_K and W_V of cross-attention."""
    net = build(adapter_feed_forward=True)
    trained = {name for name, weight in net.named_parameters() if weight.requires_grad}
    listed = {
        name
        for name, _ in net.named_parameters()
        if name.startswith(("text_encoder.", "subject_tokens.", "unet.base.conv_in."))
        or ".fuser." in name
        or name.endswith((".attn2.to_k.weight", ".attn2.to_v.weight"))
    }
    assert trained == listed
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in net.trained_parts().items()}
    assert all(parts.values())
    assert sum(parts.values()) == sum(p.numel() for p in net.parameters() if p.requires_grad)


def test_the_whole_unet_may_be_trained(build):
    net = build(departures={"train_unet": True})
    frozen = {name.partition(".")[0] for name, weight in net.named_parameters() if not weight.requires_grad}
    assert frozen == {"vae", "image_encoder"}
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in net.trained_parts().items()}
    assert sum(parts.values()) == count(net, trained=True)


def test_everything_trained_gets_a_gradient_and_nothing_else_does(build):
    net = open_gates(build(adapter_feed_forward=True, drop=NEVER, **PADDED))
    loss(net, small_batch(net.prompts, ["dog", "cat"], ["bird", None])).total.backward()
    assert all((weight.grad is not None) == weight.requires_grad for weight in net.parameters())
    still = [name for name, weight in net.named_parameters() if weight.requires_grad and weight.grad.abs().sum() == 0]
    assert still == []


def on_meta(config: ModelConfig) -> SubjectDiffusion:
    with torch.device("meta"):
        return SubjectDiffusion.from_config(config)


def count(net: nn.Module, trained: bool = False) -> int:
    return sum(weight.numel() for weight in net.parameters() if weight.requires_grad or not trained)


def test_the_official_preset_at_full_width_has_the_released_codes_parameters():
    net = on_meta(load(Model, CONFIGS / "official.toml").model)
    assert count(net, trained=True) == 582_049_632
    with torch.device("meta"):
        clip = open_clip.CLIP(**open_clip.get_model_config("ViT-H-14"))
    text_tower = count(clip) - count(clip.visual)
    assert 2.49e9 < count(net) + text_tower < 2.495e9


def test_the_paper_preset_at_full_width_with_and_without_feed_forward():
    without, with_it = (on_meta(ModelConfig(adapter_feed_forward=choice)) for choice in (False, True))
    assert count(without, trained=True) == 432_884_496
    assert count(with_it, trained=True) == 581_706_592
    assert count(with_it) - count(without) == 581_706_592 - 432_884_496


# What inputs change


@pytest.mark.parametrize("settings", [{}, PADDED], ids=["packed", "padded"])
def test_nan_in_an_absent_slot_changes_nothing(build, settings):
    net = open_gates(build(drop=NEVER, **settings))
    batch = features_of(net, small_batch(net.prompts, ["dog", None], [None, "cat"]))
    absent = ~batch.present
    features = batch.image_features

    def spoiled(tensor: Tensor) -> Tensor:
        spoilt = tensor.clone()
        spoilt[absent] = torch.nan
        return spoilt

    dirty = replace(
        batch,
        boxes=spoiled(batch.boxes),
        masks=spoiled(batch.masks),
        image_features=ImageFeatures(spoiled(features.cls), spoiled(features.patches)),
    )
    gradients = []
    totals = []
    for one in (batch, dirty):
        net.zero_grad()
        result = loss(net, one)
        result.total.backward()
        totals.append(result)
        gradients.append([weight.grad.clone() for weight in net.parameters() if weight.requires_grad])
    assert totals[0] == replace(totals[1], total=totals[0].total)
    assert totals[0].total == totals[1].total
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


@torch.no_grad()
def test_exchanging_two_subjects_exchanges_their_maps_and_changes_nothing_else(build):
    net = open_gates(build())
    batch = features_of(net, small_batch(net.prompts, ["dog", "fire hydrant"]))
    entities = batch.prompts.entity_tokens.unflatten(1, (2, 2))
    exchanged = replace(
        batch,
        prompts=replace(
            batch.prompts,
            placeholder_positions=batch.prompts.placeholder_positions.flip(1),
            entity_tokens=entities.flip(1).flatten(1, 2),
        ),
        boxes=batch.boxes.flip(1),
        masks=batch.masks.flip(1),
        image_features=ImageFeatures(batch.image_features.cls.flip(1), batch.image_features.patches.flip(1)),
    )

    recorders = [MapRecorder(one.prompts.entity_tokens, (LATENT, LATENT)) for one in (batch, exchanged)]
    prediction, other_prediction = predicted(net, batch, recorders[0]), predicted(net, exchanged, recorders[1])
    assert torch.allclose(prediction, other_prediction, atol=1e-5)
    for name, ca in recorders[0].maps.items():
        dog_first, hydrant_first = ca.unflatten(1, (2, 2)), recorders[1].maps[name].unflatten(1, (2, 2))
        assert torch.allclose(dog_first, hydrant_first.flip(1), atol=1e-6)
        assert not torch.allclose(dog_first, hydrant_first, atol=1e-4)


def changed(batch: SubjectBatch, what: str) -> SubjectBatch:
    features = batch.image_features
    return {
        "cls": replace(batch, image_features=replace(features, cls=features.cls.flip(1))),
        "patches": replace(batch, image_features=replace(features, patches=features.patches.flip(1))),
        "boxes": replace(batch, boxes=batch.boxes.flip(1)),
        "masks": replace(batch, masks=1.0 - batch.masks),
    }[what]


@torch.no_grad()
@pytest.mark.parametrize(
    ("switch", "what"),
    [
        ("use_image_cls", "cls"),
        ("use_adapter", "patches"),
        ("use_box_coordinates", "boxes"),
        ("use_location_control", "masks"),
    ],
)
def test_each_input_reaches_the_network_exactly_where_its_switch_of_table_3_is_on(build, switch, what):
    on, off = open_gates(build(max_subjects=2)), open_gates(build(**{switch: False}))
    on.unet.base.conv_in.weight[:, 4:].normal_()
    batch = features_of(on, small_batch(on.prompts, ["dog", "cat"]))
    assert not torch.allclose(predicted(on, changed(batch, what)), predicted(on, batch), atol=1e-5)
    assert torch.equal(predicted(off, changed(batch, what)), predicted(off, batch))


def test_without_attention_control_there_is_no_l_attn(build):
    net = build(use_attention_control=False, drop=NEVER)
    result = loss(net, small_batch(net.prompts, ["dog", "cat"]))
    assert result.attention == 0
    assert result.total == result.denoising


# The loss


def test_the_loss_is_eq_3s_sum(build):
    net = build(drop=NEVER, lambda_attn=0.5)
    result = loss(net, small_batch(net.prompts, ["dog", "cat"]))
    assert result.total.item() == pytest.approx((result.denoising + 0.5 * result.attention).item())
    assert result.attention > 0
    assert not result.attention.requires_grad


def test_encoding_in_advance_gives_the_same_loss(build):
    net = build(drop=NEVER)
    batch = small_batch(net.prompts, ["dog", "cat"])
    ahead = replace(features_of(net, batch), images=None, latent_moments=net.latent_moments(batch.images))
    assert loss(net, ahead).total == loss(net, batch).total
    assert torch.allclose(net.latent_moments(batch.images, chunk=1), ahead.latent_moments, atol=1e-5)


def test_a_full_batch_needs_no_attention_mask(build):
    net = open_gates(build(drop=NEVER))
    batch = small_batch(net.prompts, ["dog", "cat"], ["bird", "fire hydrant"])
    assert loss(net, replace(batch, full=True)).total.item() == pytest.approx(loss(net, batch).total.item(), abs=1e-6)


def test_the_loss_is_the_same_for_the_same_seed_only(build):
    net = build()
    batch = small_batch(net.prompts, ["dog", "cat"])
    assert loss(net, batch, seed=1).total == net(batch, torch.Generator().manual_seed(1)).total
    assert loss(net, batch, seed=1).total != loss(net, batch, seed=2).total


class Syncs(TorchDispatchMode):
    """Counter of operations that make the host wait for a GPU."""

    waiting = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.count += function in self.waiting
        return function(*arguments, **(keywords or {}))


def test_a_step_never_waits_for_the_device(build):
    """Gate C7 of docs/benchmarks/model-gates.md."""
    net = build()
    batch = small_batch(net.prompts, ["dog", "cat"], ["bird", None])
    with Syncs() as syncs:
        loss(net, batch).total.backward()
    assert syncs.count == 0
    with Syncs() as syncs:
        assert batch.present.any()
    assert syncs.count == 1


def test_a_few_steps_lower_the_loss(build):
    net = build(adapter_feed_forward=True)
    batch = small_batch(net.prompts, ["dog", "cat"], ["bird", None])
    optimizer = torch.optim.AdamW([weight for weight in net.parameters() if weight.requires_grad], lr=3e-3)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        result = loss(net, batch)
        result.total.backward()
        optimizer.step()
        losses.append(result.total.item())
    assert losses[-1] < losses[0] - 0.01
    assert any(gate != 0 for gate in net.unet.gates().values())


def test_trains_in_bfloat16_with_frozen_parts_in_bfloat16(build):
    net = build(drop=NEVER)
    exact = loss(net, small_batch(net.prompts, ["dog", "cat"])).total
    net.cast_frozen(net.config.frozen_precision)
    frozen = {weight.dtype for weight in net.vae.parameters()} | {w.dtype for w in net.image_encoder.parameters()}
    assert frozen == {torch.bfloat16}
    assert {weight.dtype for weight in net.parameters() if weight.requires_grad} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        result = loss(net, small_batch(net.prompts, ["dog", "cat"]))
    result.total.backward()
    assert result.total.item() == pytest.approx(exact.item(), rel=0.05)
    assert all(weight.grad.isfinite().all() for weight in net.parameters() if weight.requires_grad)


# Dropped conditions


def everything_dropped(what: str) -> DropConfig:
    return DropConfig(**{**NEVER.model_dump(), what: 1.0})


@torch.no_grad()
def test_without_text_the_prompt_is_empty_and_cls_is_gone(build):
    net = open_gates(build(drop=everything_dropped("text")))
    batch = features_of(net, small_batch(net.prompts, ["dog", "cat"]))
    others = small_batch(net.prompts, ["fire hydrant", "axolotl"]).prompts
    features = replace(batch.image_features, cls=batch.image_features.cls + 1)
    result = loss(net, batch)
    assert loss(net, replace(batch, prompts=others, image_features=features)).total == result.total
    assert result.attention == 0


@torch.no_grad()
@pytest.mark.parametrize("null_branches", ["adapter_off", "zero_tokens"])
def test_without_image_there_are_no_patches_no_box_and_no_mask(build, null_branches):
    net = open_gates(build(drop=everything_dropped("image"), null_branches=null_branches))
    net.unet.base.conv_in.weight[:, 4:].normal_()
    batch = features_of(net, small_batch(net.prompts, ["dog", "cat"]))
    patches = replace(batch.image_features, patches=batch.image_features.patches + 1)
    other = replace(batch, image_features=patches, boxes=batch.boxes.flip(1), masks=1 - batch.masks)
    assert loss(net, other).denoising == loss(net, batch).denoising
    cls = replace(batch.image_features, cls=batch.image_features.cls.flip(1))
    assert loss(net, replace(batch, image_features=cls)).denoising != loss(net, batch).denoising


@torch.no_grad()
def test_no_image_is_what_the_sampler_leaves_out(build):
    """Adapters off and a mask of zeros: the same as conditions without adapter inputs."""
    net = open_gates(build(drop=everything_dropped("image")))
    net.unet.base.conv_in.weight[:, 4:].normal_()
    batch = features_of(net, small_batch(net.prompts, ["dog", "cat"]))
    size = (LATENT, LATENT)
    given = net.conditions(
        *(batch.prompts, batch.image_features, batch.boxes, batch.present),
        net.location_mask(batch.boxes, batch.masks, batch.present, size),
    )
    always = torch.ones(1, dtype=torch.bool)
    trained = net._drop(given, DropMasks(text=~always, image=always, layout=~always))
    sampled = replace(given, adapter=None, location_mask=torch.zeros(1, 1, *size))
    z_t, t = torch.randn(1, 4, *size), torch.tensor([500])
    assert torch.equal(net.unet(z_t, t, trained), net.unet(z_t, t, sampled))


def test_adapters_skip_the_last_rows_without_image_with_the_same_gradients(build):
    net = open_gates(build(drop=DropConfig(image=0.4, all=0.2, fixed_rows=True), adapter_feed_forward=True))
    batch = features_of(net, small_batch(net.prompts, *[["dog", "cat"]] * 4))
    rows: set[int] = set()
    for adapter in net.unet.adapters():
        adapter.S.register_forward_pre_hook(lambda module, inputs: rows.add(len(inputs[0])))
    skipped = gradients(net, batch, net._drop)
    assert rows == {2}
    rows.clear()
    computed = gradients(net, batch, lambda given, dropped: net._drop(given, replace(dropped, last_without_image=0)))
    assert rows == {4}
    for name, gradient in computed.items():
        assert torch.allclose(skipped[name], gradient, rtol=1e-4, atol=1e-6), name


def gradients(net: SubjectDiffusion, batch: SubjectBatch, drop: Callable[..., Conditions]) -> dict[str, Tensor]:
    """Return the loss, and its gradients, where `drop` takes conditions away that are drawn as in training."""
    net.zero_grad()
    generator = torch.Generator().manual_seed(0)
    dropped = draw_drops(len(batch.boxes), net.config.drop, torch.device("cpu"), generator)
    l_m = net.location_mask(batch.boxes, batch.masks, batch.present, (LATENT, LATENT))
    conditions = net.conditions(batch.prompts, batch.image_features, batch.boxes, batch.present, l_m)
    z_t = torch.randn(len(l_m), 4, LATENT, LATENT, generator=generator)
    total = net.unet(z_t, torch.full((len(l_m),), 500), drop(conditions, dropped)).square().mean()
    total.backward()
    weights = {name: weight.grad for name, weight in net.named_parameters() if weight.grad is not None}
    return weights | {"loss": total.detach()}


@torch.no_grad()
def test_without_layout_only_the_mask_is_gone(build):
    net = open_gates(build(drop=everything_dropped("layout")))
    net.unet.base.conv_in.weight[:, 4:].normal_()
    batch = features_of(net, small_batch(net.prompts, ["dog", "cat"]))
    assert loss(net, replace(batch, masks=1 - batch.masks)).denoising == loss(net, batch).denoising
    assert loss(net, replace(batch, boxes=batch.boxes.flip(1))).denoising != loss(net, batch).denoising


# epsilon_theta


@torch.no_grad()
def test_predict_noise_takes_the_papers_arguments(build):
    net = open_gates(build())
    batch = small_batch(net.prompts, ["dog", "cat"], ["bird", None])
    z_t, t = torch.randn(2, 4, LATENT, LATENT), torch.tensor([1, 999])
    l_m = net.location_mask(batch.boxes, batch.masks, batch.present, (LATENT, LATENT))
    eps = net.predict_noise(z_t, t, batch.prompts, batch.subject_images, batch.boxes, l_m)
    features = net.image_encoder(batch.subject_images)
    conditions = net.conditions(batch.prompts, features, batch.boxes, batch.present, l_m)
    assert torch.equal(eps, net.unet(z_t, t, conditions))


@torch.no_grad()
def test_boxes_can_be_the_location(build):
    net = build(location_mask="box", location_marks="background")
    boxes, masks = torch.tensor([[[0.0, 0.0, 0.5, 1.0]]]), torch.rand(1, 1, LATENT, LATENT)
    l_m = net.location_mask(boxes, masks, torch.ones(1, 1, dtype=torch.bool), (LATENT, LATENT))
    assert (l_m[..., : LATENT // 2] == 0).all()
    assert (l_m[..., LATENT // 2 :] == 1).all()


@torch.no_grad()
def test_the_empty_text_is_the_dropped_prompts(build):
    net = build()
    batch = small_batch(net.prompts, ["dog", "cat"])
    nothing = net._drop_text(batch.prompts, torch.ones(1, dtype=torch.bool))
    assert (nothing.placeholder_positions == ABSENT).all()
    dropped = net.text_encoder(nothing.token_ids, nothing.placeholder_positions, torch.randn(1, 2, 24))
    assert torch.allclose(net.empty_text(), dropped, atol=1e-6)


@torch.no_grad()
def test_decoding_gives_pixels(build):
    net = build()
    pixels = net.decode(torch.randn(2, 4, LATENT, LATENT))
    assert pixels.shape == (2, 3, 2 * LATENT, 2 * LATENT)
    assert 0 <= pixels.min() <= pixels.max() <= 1


def test_without_cls_the_placeholder_has_an_embedding_of_its_own_that_learns(build):
    net = build(use_image_cls=False, drop=NEVER)
    loss(net, small_batch(net.prompts, ["dog", "cat"])).total.backward()
    assert net.text_encoder.clip.embeddings.token_embedding.weight.grad[net.prompts.placeholder_id].abs().sum() > 0


def test_the_official_preset_runs_small(base_folder):
    official = load(Model, CONFIGS / "official.toml").model.model_dump()
    small = small_config(base_folder).model_dump()
    config = ModelConfig.model_validate(official | {key: small[key] for key in ("base", "image_encoder")})
    net = open_gates(SubjectDiffusion.from_base(config))
    result = loss(net, small_batch(net.prompts, ["dog", "fire hydrant"], ["cat", None]))
    result.total.backward()
    assert all(weight.grad.isfinite().all() for weight in net.parameters() if weight.requires_grad)
    assert net.subject_tokens.null_patches.grad.abs().sum() > 0
