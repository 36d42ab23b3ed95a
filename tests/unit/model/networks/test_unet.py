"""The UNet against diffusers' own, and the layers whose maps are recorded."""

from collections.abc import Callable

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from model.config import ModelConfig
from model.networks.adapter import AdapterInputs
from model.networks.attention_maps import MapRecorder
from model.networks.unet import Conditions, SubjectUNet, downsampling
from model.weights.bases import STABLE_DIFFUSION_1_5, STABLE_DIFFUSION_2_BASE
from tests.small_model import LATENT, UNET

OFF = {name: False for name in ModelConfig.model_fields if name.startswith("use_")}
SD_1_5 = UNET | {"attention_head_dim": 4, "use_linear_projection": False}
SD_2_1 = UNET | {"upcast_attention": True}
B, T, M = 2, 7, 12


def stock(settings: dict[str, object] = UNET) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(**settings).eval()


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(B, 4, LATENT, LATENT), torch.tensor([3, 700]), torch.randn(B, T, 32)


def conditions(text: Tensor, gate: Tensor | None = None) -> Conditions:
    torch.manual_seed(2)
    return Conditions(text, AdapterInputs(torch.randn(B, M, 32), gate=gate), torch.rand(B, 1, LATENT, LATENT).round())


def trained(**settings: object) -> SubjectUNet:
    """A network whose new weights have left their initial values."""
    net = SubjectUNet(stock(), ModelConfig.model_validate(settings)).eval()
    with torch.no_grad():
        for adapter in net.adapters():
            adapter.gamma.fill_(0.8)
        net.base.conv_in.weight[:, 4:].normal_(std=0.1)
    return net


@torch.no_grad()
@pytest.mark.parametrize("settings", [UNET, SD_1_5, SD_2_1], ids=["2-base", "1.5", "2.1"])
def test_with_every_switch_off_it_is_diffusers_unet(settings):
    z_t, t, text = inputs()
    theirs = stock(settings)(z_t, t, text).sample
    ours = SubjectUNet(stock(settings), ModelConfig.model_validate(OFF))(z_t, t, conditions(text))
    assert (ours - theirs).abs().max() <= 1e-6
    assert theirs.abs().max() > 0.1


@torch.no_grad()
def test_a_new_network_is_the_base_and_its_new_weights_learn():
    z_t, t, text = inputs()
    net = SubjectUNet(stock(), ModelConfig(adapter_feed_forward=True))
    assert (net(z_t, t, conditions(text)) - stock()(z_t, t, text).sample).abs().max() <= 1e-6
    with torch.enable_grad():
        net(z_t, t, conditions(text)).square().sum().backward()
    gates = {name: weight.grad for name, weight in net.named_parameters() if name.endswith("gamma")}
    assert len(gates) == 2 * len(list(net.adapters()))
    assert all(gradient.abs() > 0 for gradient in gates.values())
    assert net.base.conv_in.weight.grad[:, 4].abs().sum() > 0


@torch.no_grad()
@pytest.mark.parametrize(
    ("switch", "part"),
    [("use_adapter", "adapter"), ("use_location_control", "location_mask")],
)
def test_each_condition_matters_exactly_where_its_switch_is_on(switch, part):
    z_t, t, text = inputs()
    other = {"adapter": AdapterInputs(torch.randn(B, M, 32)), "location_mask": torch.zeros(B, 1, LATENT, LATENT)}
    given = conditions(text)
    changed = Conditions(**{**vars(given), part: other[part]})
    on, off = trained(), trained(**{switch: False})
    assert not torch.allclose(on(z_t, t, given), on(z_t, t, changed), atol=1e-4)
    assert torch.equal(off(z_t, t, given), off(z_t, t, changed))


@torch.no_grad()
def test_projecting_keys_and_values_in_advance_changes_nothing():
    z_t, t, text = inputs()
    net = trained(adapter_feed_forward=True)
    assert torch.allclose(
        net(z_t, t, net.project_keys_values(conditions(text))), net(z_t, t, conditions(text)), atol=1e-5
    )


@torch.no_grad()
def test_keys_and_values_are_projected_in_advance_once():
    z_t, t, text = inputs()
    net = trained()
    made: list[str] = []
    for name, module in net.named_modules():
        if name.endswith(("attn2.to_k", "S.from_tokens")):
            module.register_forward_hook(lambda _module, _args, _out, name=name: made.append(name))
    ahead = net.project_keys_values(conditions(text))
    assert len(made) == 2 * len(list(net.blocks())) == len(set(made))
    net(z_t, t, ahead)
    net(z_t, t, ahead)
    assert len(made) == len(set(made))


@torch.no_grad()
def test_recording_leaves_the_prediction_as_it_is():
    z_t, t, text = inputs()
    net = trained()
    recorder = MapRecorder(torch.rand(B, 4, T), (LATENT, LATENT))
    assert torch.allclose(net(z_t, t, conditions(text), recorder), net(z_t, t, conditions(text)), atol=1e-5)


@pytest.mark.parametrize(("chosen", "sides"), [((2, 4, 8), {8, 4, 2}), ((4,), {4}), ((1, 8), {16, 2}), ((), set())])
@torch.no_grad()
def test_the_chosen_layers_are_recorded(chosen, sides):
    z_t, t, text = inputs()
    net = trained(attention_downsampling=chosen, use_attention_control=bool(chosen))
    recorder = MapRecorder(torch.rand(B, 4, T), (LATENT, LATENT))
    net(z_t, t, conditions(text), recorder)
    assert {ca.shape for ca in recorder.maps.values()} == {(B, 4, side, side) for side in sides}


@pytest.mark.parametrize("base", [STABLE_DIFFUSION_2_BASE, STABLE_DIFFUSION_1_5], ids=["2-base", "1.5"])
def test_at_full_width_the_maps_of_eq_2_are_11_at_32_16_and_8(base):
    with torch.device("meta"):
        net = SubjectUNet(UNet2DConditionModel.from_config(dict(base.unet)), ModelConfig())
        recorder = MapRecorder(torch.zeros(1, 2, 77), (64, 64))
        text = torch.zeros(1, 77, base.unet["cross_attention_dim"])
        net(torch.zeros(1, 4, 64, 64), torch.zeros(1), Conditions(text, None, torch.zeros(1, 1, 64, 64)), recorder)
    assert sorted(ca.shape[-1] for ca in recorder.maps.values()) == [8] + [16] * 5 + [32] * 5


def test_downsampling_of_stable_diffusions_blocks():
    names = ["down_blocks.0", "down_blocks.2", "mid_block", "up_blocks.1", "up_blocks.3"]
    assert [downsampling(f"{name}.attentions.0", levels=4) for name in names] == [1, 4, 8, 4, 1]


def test_gates_are_named_by_their_block():
    gates = trained().gates()
    assert len(gates) == 10
    assert gates["mid_block.attentions.0.transformer_blocks.0"] == pytest.approx(torch.tensor(0.8).tanh().item())


def test_checkpointing_and_recording_go_together():
    """Recomputation in the backward pass runs the recorded layers again; loss and gradients stay what they are."""
    z_t, t, text = inputs()

    def gradients(prepare: Callable[[SubjectUNet], object]) -> list[Tensor]:
        net = trained()
        net.train()
        prepare(net)
        recorder = MapRecorder(torch.eye(T).expand(B, T, T)[:, :3], (LATENT, LATENT))
        prediction = net(z_t, t, conditions(text), recorder)
        loss = prediction.square().mean() + sum(ca.square().mean() for ca in recorder.maps.values())
        loss.backward()
        return [weight.grad for weight in net.parameters() if weight.grad is not None]

    plain = gradients(lambda net: None)
    checkpointed = gradients(lambda net: net.base.enable_gradient_checkpointing())
    for one, other in zip(plain, checkpointed, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)
