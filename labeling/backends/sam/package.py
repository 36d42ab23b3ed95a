"""Segment Anything by the segment-anything package, from the original checkpoint files."""

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor

from labeling.backends.runtime import torch_device, torch_dtype
from labeling.backends.sam.checkpoint import SamArchitecture, architecture, load_weights, read_checkpoint
from labeling.backends.sam.predict import Preprocessing, SamImage, segment
from labeling.config import SegmentConfig
from labeling.stages.networks import SegmentedBox
from labeling.weights import checkpoint_file

SETTING = "labeling.segment.checkpoint"


class SegmentAnythingSegmenter:
    """Segmenter that runs `Sam` of the package."""

    def __init__(self, config: SegmentConfig) -> None:
        """Load the weights.

        Raises:
            BackendWeightsError: no such file, or it is not a Segment Anything checkpoint.
        """
        self.device = torch_device(config.device)
        self.dtype = torch_dtype(config.precision)
        source = f"{SETTING}={config.checkpoint!r}"
        self.net = load(read_checkpoint(checkpoint_file(config.checkpoint, SETTING), source), source)
        self.net.image_encoder.to(self.dtype)
        self.net.to(self.device)
        self.preprocessing = Preprocessing(side_px=self.net.image_encoder.img_size)

    def prepare(self, image: NDArray[np.uint8]) -> SamImage:
        """Resize an image for the network."""
        return self.preprocessing.prepare(image)

    def segment(
        self, prepared: Sequence[SamImage], boxes: Sequence[NDArray[np.float32]]
    ) -> list[Iterable[SegmentedBox]]:
        """Return the masks of each image's boxes."""
        return segment(self, prepared, boxes)

    def encode(self, pixels: Tensor) -> Tensor:
        """Return embeddings [B, C, g, g], computed in the precision of the settings."""
        embeddings: Tensor = self.net.image_encoder(pixels.to(self.dtype))
        return embeddings.float()

    def decode(self, embeddings: Tensor, owner: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Decode image by image, as the package's decoder takes one embedding with all of its boxes."""
        per_image = torch.split(boxes, torch.bincount(owner).tolist())
        decoded = [self._decode(embeddings[i], own) for i, own in enumerate(per_image) if len(own)]
        return torch.cat([logits for logits, _ in decoded]), torch.cat([predicted_iou for _, predicted_iou in decoded])

    def _decode(self, embedding: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        prompts = self.net.prompt_encoder
        sparse, dense = prompts(points=None, boxes=boxes, masks=None)
        logits, predicted_iou = self.net.mask_decoder(
            image_embeddings=embedding[None],
            image_pe=prompts.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        return logits[:, 0], predicted_iou[:, 0]


def load(state: dict[str, Tensor], source: str) -> Sam:
    """Build the package's network with the weights of `state`, float32.

    Raises:
        BackendWeightsError: tensors are missing, left over or of another shape.
    """
    net = build(architecture(state, source))
    load_weights(net, state, source)
    return net.float().eval().requires_grad_(False)


def build(sizes: SamArchitecture) -> Sam:
    """Build the package's network of these sizes, without memory for its weights (on the meta device)."""
    grid = sizes.image_px // sizes.patch_px
    channels = sizes.embedding_channels
    with torch.device("meta"):
        encoder = ImageEncoderViT(
            img_size=sizes.image_px,
            patch_size=sizes.patch_px,
            embed_dim=sizes.width,
            depth=sizes.depth,
            num_heads=sizes.heads,
            mlp_ratio=sizes.mlp_width / sizes.width,
            out_chans=channels,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=sizes.window,
            global_attn_indexes=sizes.global_layers,
        )
        prompts = PromptEncoder(
            embed_dim=channels,
            image_embedding_size=(grid, grid),
            input_image_size=(sizes.image_px, sizes.image_px),
            mask_in_chans=sizes.mask_input_channels,
        )
        transformer = TwoWayTransformer(
            depth=sizes.decoder_depth,
            embedding_dim=channels,
            num_heads=sizes.decoder_heads,
            mlp_dim=sizes.decoder_mlp_width,
            attention_downsample_rate=sizes.decoder_downsample,
        )
        decoder = MaskDecoder(
            transformer_dim=channels,
            transformer=transformer,
            num_multimask_outputs=sizes.masks,
            iou_head_hidden_dim=sizes.iou_head_width,
        )
    return Sam(encoder, prompts, decoder)  # not on the meta device: no checkpoint contains its normalisation constants
