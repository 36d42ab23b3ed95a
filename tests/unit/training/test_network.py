"""Training starts from the weights of a trained model."""

import pytest
import torch

from model.config import DeparturesConfig
from model.subject_diffusion import SubjectDiffusion
from training.distributed.cluster import with_absolute_paths
from training.errors import TrainingError
from training.network import load_network, start_from


def changed(net: SubjectDiffusion) -> SubjectDiffusion:
    """Return the network with other trained weights."""
    with torch.no_grad():
        for weight in net.parameters():
            if weight.requires_grad:
                weight.add_(0.01)
    return net


def test_trained_weights_are_copied(job, tmp_path):
    trained = changed(load_network(job().model, job().training.data))
    trained.half().save_pretrained(tmp_path / "model")
    net = load_network(job().model, job().training.data)
    before = {name: weight.clone() for name, weight in net.named_parameters()}
    start_from(net, tmp_path / "model")
    theirs = dict(SubjectDiffusion.from_pretrained(tmp_path / "model").named_parameters())
    for name, weight in net.named_parameters():
        assert torch.equal(weight, theirs[name] if weight.requires_grad else before[name]), name


def test_training_can_start_between_the_base_and_the_model(job, tmp_path):
    trained = changed(load_network(job().model, job().training.data))
    trained.save_pretrained(tmp_path / "model")
    net = load_network(job().model, job().training.data)
    before = {name: weight.clone() for name, weight in net.named_parameters()}
    start_from(net, tmp_path / "model", share=0.25)
    theirs = dict(trained.named_parameters())
    for name, weight in net.named_parameters():
        expected = 0.75 * before[name] + 0.25 * theirs[name] if weight.requires_grad else before[name]
        torch.testing.assert_close(weight, expected)


def test_a_model_with_other_networks_is_refused(job, tmp_path):
    other = job().model.model_copy(update={"use_adapter": False})
    load_network(other, job().training.data).save_pretrained(tmp_path / "model")
    net = load_network(job().model, job().training.data)
    with pytest.raises(TrainingError, match=r"subject_tokens\S+ \(.*\), and that model lacks it.*settings\.json"):
        start_from(net, tmp_path / "model")


def test_a_model_of_another_base_is_refused_unless_the_whole_unet_is_trained(job, tmp_path):
    net = load_network(job().model, job().training.data)
    with torch.no_grad():
        net.unet.base.conv_out.weight.add_(0.1)
    net.save_pretrained(tmp_path / "model")
    again = load_network(job().model, job().training.data)
    with pytest.raises(TrainingError, match=r"another base than .*conv_out\.weight differs"):
        start_from(again, tmp_path / "model")
    whole = job().model.model_copy(update={"departures": DeparturesConfig(train_unet=True)})
    start_from(again := load_network(whole, job().training.data), tmp_path / "model")
    assert torch.equal(again.unet.base.conv_out.weight, net.unet.base.conv_out.weight)


def test_workers_find_the_model_from_any_folder(job, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert with_absolute_paths(job(start="model")).training.start == str(tmp_path / "model")
    assert with_absolute_paths(job()).training.start is None
