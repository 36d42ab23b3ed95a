"""Both SAM backends on small random networks of the real classes, and each against its own library."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from segment_anything import sam_model_registry
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.utils.amg import calculate_stability_score
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor
from transformers import BertConfig, BertModel, SamModel, SamProcessor

from infra.precision import Precision
from labeling.backends.load import load_segmenter
from labeling.backends.sam import predict
from labeling.backends.sam.checkpoint import SamArchitecture, architecture
from labeling.backends.sam.convert import configuration, export_checkpoint, export_folder, to_original
from labeling.backends.sam.huggingface import SamHfSegmenter
from labeling.backends.sam.package import SegmentAnythingSegmenter, build
from labeling.backends.sam.predict import Preprocessing, SamImage, stability, upscale
from labeling.backends.sam.sam2 import Sam2Segmenter
from labeling.config import Device, SegmentConfig, SegmenterBackend
from labeling.errors import BackendWeightsError
from labeling.stages.networks import SegmentedBox
from labeling.stages.segment import SegmentStage
from miniature.networks import sam as miniature

SIZES = [(192, 192), (300, 200), (150, 401), (640, 480), (40, 100)]
COUNTS = [3, 0, 5, 1, 7]
TINY = SamArchitecture(
    image_px=64,
    patch_px=8,
    width=32,
    depth=3,
    heads=2,
    mlp_width=64,
    window=3,
    global_layers=(1,),
    embedding_channels=64,
    mask_input_channels=8,
    masks=3,
    decoder_depth=2,
    decoder_heads=2,
    decoder_mlp_width=48,
    decoder_downsample=2,
    iou_head_width=24,
)
SETTING = "labeling.segment.checkpoint="

Segmenter = SamHfSegmenter | SegmentAnythingSegmenter | Sam2Segmenter


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Discs of plain colours, and a little noise."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    image = np.broadcast_to(rng.uniform(0, 255, 3), (height, width, 3)).copy()
    for _ in range(4):
        y, x, radius = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(0.1, 0.4) * height
        image[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = rng.uniform(0, 255, 3)
    return (image + rng.normal(0, 4, image.shape)).clip(0, 255).astype(np.uint8)


def random_boxes(height: int, width: int, count: int, seed: int = 0) -> NDArray[np.float32]:
    corners = np.random.default_rng(seed).uniform(0, (width, height), (count, 2, 2))
    return np.concatenate([corners.min(1), corners.max(1)], axis=1).astype(np.float32)


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 1.0


def run(segmenter: Segmenter) -> list[list[SegmentedBox]]:
    prepared = [segmenter.prepare(picture(*size, seed=i)) for i, size in enumerate(SIZES)]
    boxes = [random_boxes(*size, count) for size, count in zip(SIZES, COUNTS, strict=True)]
    return [list(own) for own in segmenter.segment(prepared, boxes)]


def flat(found: list[list[SegmentedBox]]) -> list[SegmentedBox]:
    return [one for own in found for one in own]


def config(checkpoint: Path, precision: Precision = Precision.FLOAT32) -> SegmentConfig:
    return SegmentConfig(checkpoint=str(checkpoint), precision=precision, device=Device.CPU)


def original(sizes: SamArchitecture, seed: int = 2) -> Sam:
    """The package's network as its own build_sam makes it, small, with every weight random."""
    grid, channels = sizes.image_px // sizes.patch_px, sizes.embedding_channels
    encoder = ImageEncoderViT(
        img_size=sizes.image_px,
        patch_size=sizes.patch_px,
        embed_dim=sizes.width,
        depth=sizes.depth,
        num_heads=sizes.heads,
        mlp_ratio=2,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        global_attn_indexes=sizes.global_layers,
        window_size=sizes.window,
        out_chans=channels,
    )
    transformer = TwoWayTransformer(
        depth=sizes.decoder_depth, embedding_dim=channels, mlp_dim=sizes.decoder_mlp_width, num_heads=2
    )
    net = Sam(
        encoder,
        PromptEncoder(channels, (grid, grid), (sizes.image_px, sizes.image_px), sizes.mask_input_channels),
        MaskDecoder(transformer_dim=channels, transformer=transformer, iou_head_hidden_dim=sizes.iou_head_width),
    ).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in net.state_dict().items():
        norm = tensor.ndim == 1 and name.endswith("weight")
        tensor.copy_(float(norm) + 0.3 * torch.randn(tensor.shape, generator=generator))
    return net


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("sam")
    miniature.save(miniature.build(seed=0), where)
    return where


@pytest.fixture(scope="module")
def hf(folder: Path) -> SamHfSegmenter:
    return SamHfSegmenter(config(folder))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("original") / "weights.pth"
    torch.save(original(TINY).state_dict(), where)
    return where


@pytest.fixture(scope="module")
def package(checkpoint: Path) -> SegmentAnythingSegmenter:
    return SegmentAnythingSegmenter(config(checkpoint))


@pytest.fixture(scope="module")
def exported(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of `folder` in the original layout."""
    where = tmp_path_factory.mktemp("exported") / "weights.pth"
    export_checkpoint(folder, where)
    return where


# Pixels in


@pytest.mark.parametrize("size", [(192, 192), (1500, 1001), (37, 90), (500, 64)])
def test_prepare_resizes_as_the_package(size: tuple[int, int]) -> None:
    image = picture(*size)
    prepared = Preprocessing(side_px=192).prepare(image)
    assert np.array_equal(prepared.pixels, ResizeLongestSide(192).apply_image(image))
    assert (prepared.height_px, prepared.width_px) == size


def test_a_thread_of_an_image_keeps_a_pixel() -> None:
    assert Preprocessing(side_px=64).prepare(picture(1, 2000)).pixels.shape == (1, 64, 3)


def test_batch_normalises_and_pads_as_the_package() -> None:
    prepared = [Preprocessing(side_px=64).prepare(picture(*size)) for size in SIZES]
    batch = Preprocessing(side_px=64).batch(prepared, torch.device("cpu"))
    for own, image in zip(batch, prepared, strict=True):
        pixels = torch.tensor(image.pixels).permute(2, 0, 1)
        torch.testing.assert_close(own, original(TINY).preprocess(pixels), rtol=0, atol=1e-6)


def test_batch_is_what_the_folders_own_processor_makes(hf: SamHfSegmenter, folder: Path) -> None:
    images = [picture(*size) for size in SIZES]
    theirs = SamProcessor.from_pretrained(folder)(images, return_tensors="pt").pixel_values
    ours = hf.preprocessing.batch([hf.prepare(image) for image in images], hf.device)
    # torchvision's resize is at most one grey level off Pillow's
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1.01 / 57.12)


def test_the_folders_own_normalisation_counts(folder: Path, tmp_path: Path) -> None:
    net = SamModel.from_pretrained(folder)
    miniature.save(net, tmp_path)
    file = tmp_path / "processor_config.json"
    settings = json.loads(file.read_text())
    settings["image_processor"]["image_mean"] = [0.5, 0.25, 0.0]
    file.write_text(json.dumps(settings))
    assert SamHfSegmenter(config(tmp_path)).preprocessing.mean == pytest.approx((127.5, 63.75, 0.0))


# Masks out


@pytest.mark.parametrize("size", [(64, 64), (300, 200), (33, 101)])
@pytest.mark.parametrize("limit", [2**27, 1])
def test_upscale_is_the_packages(size: tuple[int, int], limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "UPSCALE_BYTES", limit)
    image = Preprocessing(side_px=64).prepare(picture(*size))
    logits = torch.randn(5, 32, 32, generator=torch.Generator().manual_seed(1))
    theirs = original(TINY).postprocess_masks(logits[:, None], image.pixels.shape[:2], size)[:, 0] > 0
    assert np.array_equal(np.stack(upscale(logits, image, Preprocessing(side_px=64))), theirs.numpy())


def test_stability_is_the_packages_where_nothing_is_padded() -> None:
    logits = 3 * torch.randn(5, 32, 32, generator=torch.Generator().manual_seed(1))
    square = Preprocessing(side_px=64).prepare(picture(64, 64))
    assert stability(logits, square, 64).tolist() == calculate_stability_score(logits, 0.0, 1.0).tolist()


def test_stability_leaves_the_padding_out() -> None:
    wide = SamImage(np.zeros((32, 64, 3), np.uint8), 32, 64)
    logits = torch.full((1, 32, 32), 0.5)  # between the thresholds
    logits[:, :16, :8] = 2.0
    assert stability(logits, wide, 64).item() == 0.25


def test_stability_of_nothing_is_zero() -> None:
    square = Preprocessing(side_px=64).prepare(picture(64, 64))
    assert stability(torch.full((1, 32, 32), -5.0), square, 64).tolist() == [0.0]


# Each backend against its own library


def test_package_backend_is_the_packages_forward(package: SegmentAnythingSegmenter) -> None:
    net = original(TINY)
    resize = ResizeLongestSide(64)
    for i, (size, count, found) in enumerate(zip(SIZES, COUNTS, run(package), strict=True)):
        if not count:
            continue  # the package cannot
        image, boxes = picture(*size, seed=i), random_boxes(*size, count)
        pixels = torch.tensor(resize.apply_image(image)).permute(2, 0, 1)
        prompts = torch.tensor(resize.apply_boxes(boxes, size), dtype=torch.float32)
        own = net([{"image": pixels, "original_size": size, "boxes": prompts}], multimask_output=False)[0]
        assert len(found) == count
        for segmented, mask, predicted in zip(found, own["masks"][:, 0], own["iou_predictions"][:, 0], strict=True):
            assert iou(segmented.mask, mask.numpy()) > 0.999
            assert segmented.predicted_iou == pytest.approx(predicted.item(), abs=1e-4)


def test_hf_backend_is_transformers_own_chain(hf: SamHfSegmenter, folder: Path) -> None:
    net, processor = SamModel.from_pretrained(folder), SamProcessor.from_pretrained(folder)
    for i, (size, count, found) in enumerate(zip(SIZES, COUNTS, run(hf), strict=True)):
        if not count:
            continue  # nor can transformers
        boxes = [random_boxes(*size, count).tolist()]
        inputs = processor(picture(*size, seed=i), input_boxes=boxes, return_tensors="pt").to(torch.float32)
        sizes = inputs.pop("original_sizes"), inputs.pop("reshaped_input_sizes")
        with torch.inference_mode():
            out = net(**inputs, multimask_output=False)
        own = processor.post_process_masks(out.pred_masks, *sizes)[0][:, 0].numpy()
        assert iou(np.stack([segmented.mask for segmented in found]), own) > 0.99
        assert [s.predicted_iou for s in found] == pytest.approx(out.iou_scores.flatten().tolist(), abs=0.02)


# The two backends on the same weights


def agree(ours: list[list[SegmentedBox]], theirs: list[list[SegmentedBox]]) -> None:
    assert [len(own) for own in ours] == [len(own) for own in theirs] == COUNTS
    for a, b in zip(flat(ours), flat(theirs), strict=True):
        assert iou(a.mask, b.mask) >= 0.99
        assert a.predicted_iou == pytest.approx(b.predicted_iou, abs=1e-3)
        assert a.stability == pytest.approx(b.stability, abs=1e-2)


def test_a_folder_at_home_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert SamHfSegmenter(config(Path("~", folder.name))).preprocessing.side_px > 0


def test_backends_agree_on_the_folders_weights(hf: SamHfSegmenter, exported: Path) -> None:
    found = run(SegmentAnythingSegmenter(config(exported)))
    agree(run(hf), found)
    assert 0.05 < np.mean([one.mask.mean() for one in flat(found)]) < 0.95


def test_backends_agree_on_the_originals_weights(
    package: SegmentAnythingSegmenter, checkpoint: Path, tmp_path: Path
) -> None:
    export_folder(checkpoint, tmp_path)
    agree(run(package), run(SamHfSegmenter(config(tmp_path))))


def test_weights_survive_the_way_there_and_back(checkpoint: Path, tmp_path: Path) -> None:
    export_folder(checkpoint, tmp_path / "folder")
    export_checkpoint(tmp_path / "folder", tmp_path / "again.pth")
    before, after = torch.load(checkpoint), torch.load(tmp_path / "again.pth")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("backend", [SegmenterBackend.SAM_HF, SegmenterBackend.SEGMENT_ANYTHING])
def test_the_stage_loads_the_backend_of_its_settings(backend: SegmenterBackend, folder: Path, checkpoint: Path) -> None:
    where = {SegmenterBackend.SAM_HF: folder, SegmenterBackend.SEGMENT_ANYTHING: checkpoint}[backend]
    stage = SegmentStage(config(where).model_copy(update={"backend": backend}), load_segmenter)
    stage.setup()
    own = {SegmenterBackend.SAM_HF: SamHfSegmenter, SegmenterBackend.SEGMENT_ANYTHING: SegmentAnythingSegmenter}
    assert isinstance(stage.segmenter, own[backend])


# Batches


@pytest.mark.parametrize("name", ["hf", "package"])
def test_batched_equals_single(name: str, request: pytest.FixtureRequest) -> None:
    segmenter: Segmenter = request.getfixturevalue(name)
    for i, (size, count, batched) in enumerate(zip(SIZES, COUNTS, run(segmenter), strict=True)):
        prepared = segmenter.prepare(picture(*size, seed=i))
        single = list(segmenter.segment([prepared], [random_boxes(*size, count)])[0])
        assert len(single) == len(batched) == count
        for a, b in zip(single, batched, strict=True):
            assert a.mask.shape == b.mask.shape == size
            assert iou(a.mask, b.mask) >= 0.999
            assert (a.predicted_iou, a.stability) == pytest.approx((b.predicted_iou, b.stability), abs=1e-3)


@pytest.mark.parametrize("name", ["hf", "package"])
def test_more_boxes_than_are_decoded_together(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter: Segmenter = request.getfixturevalue(name)
    whole = run(segmenter)
    monkeypatch.setattr(predict, "BOXES_AT_ONCE", 2)  # cuts within images and across them
    agree(run(segmenter), whole)


@pytest.mark.parametrize("name", ["hf", "package"])
def test_images_without_boxes_have_no_masks(name: str, request: pytest.FixtureRequest) -> None:
    segmenter: Segmenter = request.getfixturevalue(name)
    prepared = [segmenter.prepare(picture(50, 60))] * 2
    assert list(map(list, segmenter.segment(prepared, [random_boxes(50, 60, 0)] * 2))) == [[], []]


# Precision


@pytest.mark.parametrize(("backend", "weights"), [(SamHfSegmenter, "folder"), (SegmentAnythingSegmenter, "exported")])
def test_bfloat16_is_the_encoders_alone(backend: type[Segmenter], weights: str, request: pytest.FixtureRequest) -> None:
    where = request.getfixturevalue(weights)
    exact, rough = backend(config(where)), backend(config(where, Precision.BFLOAT16))
    embeddings = exact.encode(_pixels(exact))
    assert not torch.equal(rough.encode(_pixels(rough)), embeddings)
    prompt = torch.tensor([0]), torch.tensor([[3.0, 5.0, 40.3, 50.7]])
    for a, b in zip(exact.decode(embeddings, *prompt), rough.decode(embeddings, *prompt), strict=True):
        assert torch.equal(a, b)
    # of all masks together: among random weights' masks some are a few pixels, which a rounding moves
    ours, theirs = (np.concatenate([one.mask.ravel() for one in flat(run(net))]) for net in (exact, rough))
    assert iou(ours, theirs) >= 0.95


def _pixels(segmenter: Segmenter) -> Tensor:
    return segmenter.preprocessing.batch([segmenter.prepare(picture(64, 64))], segmenter.device)


# Original checkpoint files


@pytest.mark.parametrize(
    ("name", "width", "depth", "heads", "global_layers"),
    [
        ("vit_h", 1280, 32, 16, (7, 15, 23, 31)),
        ("vit_l", 1024, 24, 16, (5, 11, 17, 23)),
        ("vit_b", 768, 12, 12, (2, 5, 8, 11)),
    ],
)
def test_the_three_sizes_are_read_from_shapes(
    name: str, width: int, depth: int, heads: int, global_layers: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        net = sam_model_registry[name]()
    state = net.state_dict()
    found = architecture(state, "x")
    assert (found.width, found.depth, found.heads, found.global_layers) == (width, depth, heads, global_layers)
    assert (found.image_px, found.patch_px, found.window) == (1024, 16, 14)
    assert (found.decoder_heads, found.decoder_mlp_width, found.embedding_channels) == (8, 2048, 256)
    ours = build(found).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in state.items()}
    assert str(build(found)) == str(net)  # epsilons too, which no shape shows


def test_a_small_checkpoint_is_read_from_shapes_too(checkpoint: Path) -> None:
    assert architecture(torch.load(checkpoint), "x") == TINY


def refused(checkpoint: Path, backend: type[Segmenter] = SegmentAnythingSegmenter) -> str:
    with pytest.raises(BackendWeightsError) as caught:
        backend(config(checkpoint))
    message = str(caught.value)
    assert SETTING + repr(str(checkpoint)) in message
    assert "\n" not in message
    return message


def test_no_such_file_is_refused(tmp_path: Path) -> None:
    assert "is not a file" in refused(tmp_path / "sam_vit_h_4b8939.pth")


def test_a_web_page_in_place_of_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sam.pth").write_text("<html>404</html>")
    assert "cannot be read" in refused(tmp_path / "sam.pth")


def test_a_torn_file_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "sam.pth").write_bytes(checkpoint.read_bytes()[:-5000])
    assert "cannot be read" in refused(tmp_path / "sam.pth")


def test_a_trainers_checkpoint_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    torch.save({"model": torch.load(checkpoint), "epoch": 3}, tmp_path / "sam.pth")
    assert "['model', 'epoch']" in refused(tmp_path / "sam.pth")


def test_other_weights_are_refused(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(3, 3)}, tmp_path / "sam.pth")
    message = refused(tmp_path / "sam.pth")
    assert "10 of the 10 tensors" in message
    assert "'image_encoder.patch_embed.proj.weight'" in message
    assert "'fc.weight'" in message


def test_missing_and_foreign_tensors_are_counted(checkpoint: Path, tmp_path: Path) -> None:
    state = torch.load(checkpoint)
    del state["mask_decoder.iou_token.weight"], state["prompt_encoder.no_mask_embed.weight"]
    torch.save(state | {"mask_decoder.hf_token.weight": torch.zeros(1)}, tmp_path / "sam.pth")
    message = refused(tmp_path / "sam.pth")
    assert "2 are missing, and 1 do not belong" in message
    assert "'prompt_encoder.no_mask_embed.weight'" in message


def test_one_foreign_tensor_is_enough(checkpoint: Path, tmp_path: Path) -> None:
    torch.save(torch.load(checkpoint) | {"mask_decoder.hf_token.weight": torch.zeros(1)}, tmp_path / "sam.pth")
    assert "'mask_decoder.hf_token.weight'" in refused(tmp_path / "sam.pth")


def test_a_tensor_of_another_shape_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    state = torch.load(checkpoint)
    state["mask_decoder.iou_token.weight"] = torch.zeros(1, 5)
    torch.save(state, tmp_path / "sam.pth")
    assert "mask_decoder.iou_token.weight" in refused(tmp_path / "sam.pth")


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    torch.save({"x": Trap(str(tmp_path / "sprung"))}, tmp_path / "sam.pth")
    refused(tmp_path / "sam.pth")
    assert not (tmp_path / "sprung").exists()


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.mkdir, (Path(self.path),)


# Folders


def test_no_such_folder_is_refused(tmp_path: Path) -> None:
    assert "does not load" in refused(tmp_path / "nothing", SamHfSegmenter)


def test_another_models_folder_is_refused(tmp_path: Path) -> None:
    tiny = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
    BertModel(tiny).save_pretrained(tmp_path)
    assert "'bert'" in refused(tmp_path, SamHfSegmenter)


def test_torn_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    miniature.save(SamModel.from_pretrained(folder), tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5000])
    assert "does not load" in refused(tmp_path, SamHfSegmenter)


def test_weights_that_lack_tensors_are_refused(folder: Path, tmp_path: Path) -> None:
    net = SamModel.from_pretrained(folder)
    del net.mask_decoder.iou_token
    miniature.save(net, tmp_path)
    assert "lacks 1 tensors" in refused(tmp_path, SamHfSegmenter)


def test_weights_of_another_shape_are_refused(folder: Path, tmp_path: Path) -> None:
    net = SamModel.from_pretrained(folder)
    net.mask_decoder.iou_token.weight.data = torch.zeros(1, 5)
    miniature.save(net, tmp_path)
    assert "'mask_decoder.iou_token.weight'" in refused(tmp_path, SamHfSegmenter)


def test_a_processor_for_another_size_is_refused(folder: Path, tmp_path: Path) -> None:
    miniature.save(SamModel.from_pretrained(folder), tmp_path, TINY)
    message = refused(tmp_path, SamHfSegmenter)
    assert "64" in message
    assert "192x192" in message


def test_heads_that_the_original_layout_cannot_tell_are_refused() -> None:
    settings = configuration(TINY)
    settings.mask_decoder_config.num_attention_heads = 4
    with pytest.raises(BackendWeightsError, match="4 heads in 64 channels"):
        to_original(SamModel(settings))
