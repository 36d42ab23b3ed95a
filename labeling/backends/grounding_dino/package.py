"""Grounding DINO of the groundingdino-py package, and its checkpoint files.

The package was written for transformers 4, and downloads BERT's weights on construction although its checkpoints
hold them. While its constructor runs, two names in the package are replaced: by a BERT without weights, wrapped so that
transformers 5 runs it, and by the tokenizer of `text_encoder`. Its deformable attention is plain PyTorch on any device.

Images are resized as by `grounding_dino_hf`, with the package's numbers (shortest side 800 px, at most 1333 px).
Against the package's own Pillow resize, colours differ by one level or so, and images longer than 5:3 by up to 2 px.

The libraries differ in one number: where they invert a coordinate in [0, 1], the package clips it to [1e-3, 1 - 1e-3]
and transformers to [1e-5, 1 - 1e-5]. This changes only boxes with a coordinate that close to 0 or 1.
The package knows Swin backbones and a width of 256 only: other shapes (those of `miniature`) need `grounding_dino_hf`.
"""

import contextlib
import runpy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BatchEncoding,
    GroundingDinoImageProcessor,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from labeling.backends.grounding_dino.detect import (
    PreparedImage,
    PromptedDetector,
    prepare_image,
    resizing_of,
)
from labeling.backends.grounding_dino.prompt import PromptBatch, PromptWriter
from labeling.backends.runtime import pretrained_source, torch_device
from labeling.config import DetectConfig
from labeling.errors import BackendWeightsError
from labeling.stages.networks import DetectedBox
from labeling.weights import checkpoint_file

with warnings.catch_warnings():  # the package uses timm's former module names
    warnings.simplefilter("ignore", FutureWarning)
    import groundingdino.models.GroundingDINO.groundingdino as package
    from groundingdino.config import GroundingDINO_SwinT_OGC
    from groundingdino.models import build_model
    from groundingdino.models.GroundingDINO.groundingdino import GroundingDINO
    from groundingdino.util.slconfig import SLConfig

PREPROCESSING = {"shortest_edge": 800, "longest_edge": 1333}
"""Sizes in pixels. Colours are normalised by ImageNet's mean and deviation, as transformers does by default."""


class GroundingDinoPackageDetector:
    """Detector that runs Grounding DINO of the groundingdino-py package."""

    def __init__(self, config: DetectConfig) -> None:
        """Load the weights.

        Raises:
            BackendWeightsError: a file is missing, or checkpoint, configuration and text encoder do not fit.
        """
        device = torch_device(config.device)
        tokenizer, bert_config = text_encoder(config.text_encoder, config.table)
        self._net = build(package_config(config.package_config, config.table), tokenizer, bert_config, config.table)
        load(self._net, package_weights(config.checkpoint, config.table), config)
        self._net.eval().to(device)
        self._image_processor = GroundingDinoImageProcessor(size=PREPROCESSING)
        self.resizing = resizing_of(self._image_processor, config)
        writer = PromptWriter(tokenizer, self._net.max_text_len)
        self._prompted = PromptedDetector(self._forward, writer, device, config)

    def prepare(self, image: NDArray[np.uint8]) -> PreparedImage:
        """Resize and normalise an image."""
        return prepare_image(self._image_processor, image, self.resizing)

    def detect(self, prepared: Sequence[PreparedImage], labels: Sequence[Sequence[str]]) -> list[list[DetectedBox]]:
        """Return the boxes of each image's labels, best first."""
        return self._prompted.detect(prepared, labels)

    def _forward(self, pixels: Tensor, prompts: PromptBatch) -> tuple[Tensor, Tensor]:
        tokens = {
            "input_ids": prompts.token_ids,
            "attention_mask": prompts.attention_mask,
            "token_type_ids": torch.zeros_like(prompts.token_ids),
        }
        output = self._net(pixels, captions=BatchEncoding(tokens))
        return output["pred_logits"], output["pred_boxes"]


def text_encoder(name: str, table: str = DetectConfig.table) -> tuple[PreTrainedTokenizerBase, PretrainedConfig]:
    """Return tokenizer and configuration of the BERT `name`, a folder or hub id; no weights."""
    with pretrained_source(name, f"{table}.text_encoder") as source:
        return AutoTokenizer.from_pretrained(source), AutoConfig.from_pretrained(source)


def package_config(path: str | None, table: str = DetectConfig.table) -> SLConfig:
    """Return the package's settings from a `.py` file; None for its GroundingDINO_SwinT_OGC.py."""
    file = Path(GroundingDINO_SwinT_OGC.__file__) if path is None else checkpoint_file(path, f"{table}.package_config")
    try:
        values = {name: value for name, value in runpy.run_path(str(file)).items() if not name.startswith("__")}
        settings = SLConfig(values, filename=str(file))
        settings.use_checkpoint = settings.use_transformer_ckpt = False  # they save memory in training only
    except Exception as error:  # the file is Python code
        raise BackendWeightsError(
            f"{table}.package_config={str(file)!r} is not a configuration of GroundingDINO: {error!r}"
        ) from error
    return settings


def package_weights(path: str, table: str = DetectConfig.table) -> dict[str, Tensor]:
    """Return the weights of a `.pth` file."""
    file = checkpoint_file(path, f"{table}.checkpoint")
    try:
        return unpack_weights(torch.load(file, map_location="cpu", weights_only=True))
    except Exception as error:  # torch.load raises many types of errors
        raise BackendWeightsError(
            f"{table}.checkpoint={path!r} is not a GroundingDINO checkpoint, which is a file of torch.save with "
            f"tensors under 'model' ({type(error).__name__})"
        ) from error


def unpack_weights(content: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the weights in a checkpoint's content, without the prefix that training on several GPUs left."""
    return {name.removeprefix("module."): tensor for name, tensor in content["model"].items()}


def build(
    settings: SLConfig,
    tokenizer: PreTrainedTokenizerBase,
    bert_config: PretrainedConfig,
    table: str = DetectConfig.table,
) -> GroundingDINO:
    """Build the package's network with random weights, without a download."""
    _silence()
    with _replace_text_modules(tokenizer, bert_config):
        try:
            net = build_model(settings)
        except (AttributeError, AssertionError, NotImplementedError) as error:
            raise BackendWeightsError(
                f"{table}.package_config={settings.filename!r}: the groundingdino package builds no network "
                f"from it: {error!r}"
            ) from error
    net.tokenizer = _already_tokenized
    for layer in net.transformer.encoder.text_layers:
        layer.register_forward_pre_hook(_mask_per_head, with_kwargs=True)
    return net


def load(net: GroundingDINO, weights: Mapping[str, Tensor], config: DetectConfig) -> None:
    """Load `weights` into `net`. Weights without a counterpart in `net` are used in training only, and are ignored.

    Raises:
        BackendWeightsError: weights that `net` needs are missing or have another shape; the message names the first.
    """
    wanted = needed_weights(net, weights)
    if wrong := [name for name, own in wanted.items() if name not in weights or weights[name].shape != own.shape]:
        raise BackendWeightsError(
            f"{config.table}.checkpoint={config.checkpoint!r}: {len(wrong)} of {len(wanted)} weights are missing or "
            f"have another shape, first {wrong[0]}: it does not fit "
            f"{config.table}.package_config={config.package_config!r} and "
            f"{config.table}.text_encoder={config.text_encoder!r}"
        )
    net.load_state_dict(weights, strict=False)


def needed_weights(net: GroundingDINO, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of `net` that a checkpoint must have; indices of positions may be absent from `weights`."""
    own: dict[str, Tensor] = net.state_dict()
    return {name: own[name] for name in own if name in weights or not name.endswith("position_index")}


class PhraseBert(nn.Module):
    """BERT with an attention mask for each pair of tokens; replaces the package's `BertModelWarper`."""

    def __init__(self, bert_model: PreTrainedModel) -> None:
        super().__init__()
        self.config = bert_model.config
        self.embeddings = bert_model.embeddings
        self.encoder = bert_model.encoder
        self.pooler = bert_model.pooler  # in checkpoints, but its output is not used

    def forward(
        self, input_ids: Tensor, token_type_ids: Tensor, position_ids: Tensor, attention_mask: Tensor
    ) -> dict[str, Tensor]:
        """Return hidden states [B, T, D] as `last_hidden_state`; `attention_mask` is bool [B, T, T], True to attend."""
        hidden = self.embeddings(input_ids=input_ids, token_type_ids=token_type_ids, position_ids=position_ids)
        additive = torch.zeros_like(attention_mask, dtype=hidden.dtype)
        additive = additive.masked_fill(~attention_mask, torch.finfo(hidden.dtype).min)[:, None]
        return {"last_hidden_state": self.encoder(hidden, attention_mask=additive)[0]}


@contextlib.contextmanager
def _replace_text_modules(tokenizer: PreTrainedTokenizerBase, bert_config: PretrainedConfig) -> Iterator[None]:
    theirs = package.get_tokenlizer, package.BertModelWarper
    package.BertModelWarper = PhraseBert
    package.get_tokenlizer = SimpleNamespace(
        get_tokenlizer=lambda _: tokenizer, get_pretrained_language_model=lambda _: AutoModel.from_config(bert_config)
    )
    try:
        yield
    finally:
        package.get_tokenlizer, package.BertModelWarper = theirs


def _already_tokenized(captions: BatchEncoding, padding: str, return_tensors: str) -> BatchEncoding:
    """Return the prompts unchanged, because they are tokenized; replaces the package's tokenizer."""
    return captions


def _mask_per_head(
    layer: nn.Module, args: tuple[object, ...], kwargs: dict[str, Any]
) -> tuple[tuple[object, ...], dict[str, Any]]:
    """Repeat a batch's masks image by image, as the attention reads them; the layer would repeat them head by head."""
    return args, {**kwargs, "src_mask": kwargs["src_mask"].repeat_interleave(layer.nhead, dim=0)}


def _silence() -> None:
    """Ignore warnings about the package's outdated calls of PyTorch."""
    warnings.filterwarnings("ignore", message="torch.meshgrid")
    warnings.filterwarnings("ignore", message=r".*torch\.cuda\.amp\.autocast", category=FutureWarning)
