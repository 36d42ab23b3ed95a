"""Settings of the model. The defaults are the paper's; `infra/configs/official.toml` states those of the released code.

The five `use_` switches are rows (c) to (g) of Table 3. Every other choice is a difference between the paper and the
released code, or a point on which the paper is silent. Combinations are checked here, once, and nowhere else.
"""

from enum import StrEnum

from pydantic import Field, model_validator

from infra.config import Config
from infra.precision import Precision
from infra.ranges import Count, Factor, Share


class AttentionLoss(StrEnum):
    L1 = "l1"
    """|CA_l - M_k|, as printed in Eq. 2."""
    BALANCED = "balanced"
    """Mean attention on the background minus mean attention on the entity (released code)."""


class LayerReduction(StrEnum):
    SUM = "sum"
    """Over the layers l, as printed in Eq. 2."""
    MEAN = "mean"
    """Over the layers l (released code)."""


class MaskResize(StrEnum):
    """How M_k of Eq. 2 is reduced to the size of a layer's map."""

    AREA = "area"
    """To the share of each position that the entity covers, so that a thin entity keeps its mass."""
    BILINEAR = "bilinear"
    """Bilinearly with antialiasing, from the training image's pixels, each inside or outside (released code)."""


class AttentionMean(StrEnum):
    """The mean over entities in Eq. 2."""

    ENTITIES = "entities"
    """Over all entities of the batch, as printed in Eq. 2."""
    IMAGES = "images"
    """Over each image's entities, then over all images; an image without text counts as 0 (released code)."""


class EntityTokens(StrEnum):
    """Which tokens of a clause "the [label] is [PH]" are the y_k of Eq. 2."""

    LABEL_AND_PLACEHOLDER = "label_and_placeholder"
    """The label, by the mean map of all its tokens, and the placeholder (Fig. 3: "dog", "[cls_0]")."""
    LAST_LABEL_TOKEN_AND_PLACEHOLDER = "last_label_token_and_placeholder"
    """Of the label its last token only (released code)."""
    PLACEHOLDER = "placeholder"
    """The placeholder alone."""


class SubjectBackground(StrEnum):
    """What lies behind the segmented subject in the picture that the image encoder sees."""

    WHITE = "white"
    MEAN = "mean"
    """The image encoder's mean colour, which its normalisation turns into zeros."""
    RANDOM = "random"
    """A random photograph in training, white at sampling (released code)."""


class LocationMask(StrEnum):
    """What l_m is made of."""

    MASK = "mask"
    """The union of the subjects' segmentation masks."""
    BOX = "box"
    """The union of the subjects' filled boxes (released code)."""


class LocationMarks(StrEnum):
    """Where l_m is 1."""

    SUBJECT = "subject"
    BACKGROUND = "background"
    """Then a mask of zeros says "all is subject" (released code)."""


class BoxEdges(StrEnum):
    """Where the edges of a box lie."""

    EXACT = "exact"
    """Where they are; the box holds the positions of the latent whose centre is in it."""
    PIXELS = "pixels"
    """At the training image's first and last pixel in the box, as if it had been painted; the box holds the positions
    of the latent whose first pixel is in it, from its first pixel to its last (released code)."""


class FourierOrder(StrEnum):
    """The order of the sines and cosines of a box in Fourier(l)."""

    BY_COORDINATE = "by_coordinate"
    """Coordinate by coordinate: its sines, then its cosines."""
    BY_FREQUENCY = "by_frequency"
    """Frequency by frequency: the sines of the four coordinates, then their cosines (released code)."""


class TemplateTokens(StrEnum):
    """How the prompt and its clauses ", the [label] is [PH]" become tokens."""

    APART = "apart"
    """One by one, without a comma where there is no text: a clause has the same tokens after any text."""
    WHOLE = "whole"
    """As one string. Punctuation or an emoji at the end of the text may share a token with the comma, and without text
    the prompt starts with a comma (released code)."""


class BoxCondition(StrEnum):
    ALWAYS = "always"
    NULL_FOR_SINGLE = "null_for_single"
    """The box of an image's only subject is replaced by the null position (released code's test script)."""


class AbsentSlots(StrEnum):
    PACKED = "packed"
    """Absent slots have no adapter tokens at all."""
    NULL_PADDED = "null_padded"
    """Absent slots hold learned null features, up to `max_subjects` (released code)."""


class PatchTokens(StrEnum):
    AFTER_LN_POST = "after_ln_post"
    """As open_clip returns them today."""
    BEFORE_LN_POST = "before_ln_post"
    """As open_clip 2.20 returned them, which the released code was trained with."""


class NullBranches(StrEnum):
    """What "no image" means to the sampler's branches. "No text" is the empty prompt in both, so CLS goes too."""

    ADAPTER_OFF = "adapter_off"
    """The adapters are skipped and the location mask is zero; exactly what training drops."""
    ZERO_TOKENS = "zero_tokens"
    """The adapters see zeros and the location mask is zero (released code, which never trains on them)."""


class Recompute(StrEnum):
    """What the backward pass computes again instead of finding it kept."""

    NOTHING = "nothing"
    ACTIVATIONS = "activations"
    """What needs no matrix product: a quarter less memory or more, for no FLOPs."""
    FEED_FORWARDS = "feed_forwards"
    """The feed-forwards as well: half the memory, for some 7 % more FLOPs in the UNet."""


class DropConfig(Config):
    """How often training drops conditions, so that the sampler's null branches are known to the network.

    The events exclude each other: one is drawn per image, and the probabilities add up to at most 1.
    """

    text: Share = 0.05
    """The prompt becomes the empty string; CLS goes with it. Choice: App. A is silent."""
    image: Share = 0.05
    """The adapters are off and the location mask is zero; CLS stays in the prompt. Choice: App. A is silent."""
    layout: Share = 0.05
    """The location mask is zero. Choice: App. A is silent."""
    text_and_layout: Share = 0.0
    """Both, while the adapters stay on (released code)."""
    all: Share = 0.05
    """Text, image and layout together. Choice: App. A is silent."""

    @model_validator(mode="after")
    def _one_event_per_image(self) -> "DropConfig":
        if (total := sum(self.model_dump().values())) > 1:
            raise ValueError(
                f"model.drop: the probabilities add up to {total:g}; they exclude each other, so at most 1"
            )
        return self


class SubjectConfig(Config):
    """The picture of a subject that the image encoder sees."""

    background: SubjectBackground = SubjectBackground.WHITE
    """Choice: the paper says "segmented subject image" and no more."""
    backgrounds: str | None = None
    """Folder of photographs for `background = "random"`."""
    square: bool = True
    """Pad the cut-out to a square, so that no part is cropped away. Choice: the paper is silent."""
    fill_cavities: bool = False
    """Fill the cavities of a subject's mask: in training what has mask on all four sides, at sampling holes (released
    code). M_k of Eq. 2 is filled too where it is resized from pixels. Choice: the paper is silent."""

    @model_validator(mode="after")
    def _random_needs_photographs(self) -> "SubjectConfig":
        if self.background is SubjectBackground.RANDOM and self.backgrounds is None:
            raise ValueError('model.subject.background="random" needs model.subject.backgrounds=FOLDER of photographs')
        return self


class DeparturesConfig(Config):
    """What neither paper nor released code does. All off by default: networks that train for minutes want them."""

    patch_positions: bool = False
    """Add a code of places to the adapter's queries and keys: where a latent position is, and where a patch of the
    subject's picture comes to lie in its box. The paper gives the box of the whole subject alone."""
    keys_start_as_queries: bool = False
    """Start W_k of the adapter as W_q, so that what is alike is looked at from the first step. It trains freely."""
    gate_start: Factor = 0.0
    """gamma of a new adapter. Above 0 the base's images change at once, and the adapter learns sooner."""


class ModelConfig(Config):
    base: str = "stabilityai/stable-diffusion-2-base"
    """VAE, UNet, text encoder and scheduler: a local diffusers folder or a hub id ("SD v2-base", App. A).

    Stability AI withdrew this id from the hub in November 2025: a cached or local copy still loads, everybody else
    names a mirror (`model/weights/bases.py`, MIRRORS). The default stays the original, since mirrors are unofficial."""
    base_revision: str | None = None
    """Revision of the hub id."""
    image_encoder: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    """I_theta: a local folder in OpenCLIP's hub layout or a hub id ("OpenCLIP-ViT-H/14", App. A)."""
    image_encoder_revision: str | None = None
    """Revision of the hub id."""
    frozen_precision: Precision = Precision.BFLOAT16
    """How frozen matrices are kept in training, where autocast computes in bfloat16 anyway."""

    max_subjects: int = Field(default=4, ge=1, le=64)
    """Subject slots per image. Choice: the paper sets no limit."""
    placeholder: str = "<|subject|>"
    """[PH] of the prompt template. A word that is one token of the tokenizer is used as it is; else it is added."""
    template_tokens: TemplateTokens = TemplateTokens.APART
    """Tokenization of the text and its clauses. Choice: the paper is silent."""

    use_location_control: bool = True
    """Table 3 (c): concatenate the mask l_m to the latent."""
    use_box_coordinates: bool = True
    """Table 3 (d): give the adapter Fourier(l)."""
    use_adapter: bool = True
    """Table 3 (e): insert the adapters."""
    use_attention_control: bool = True
    """Table 3 (f): add L_attn."""
    use_image_cls: bool = True
    """Table 3 (g): put v_g in place of the placeholder's embedding."""

    beta: Factor = 1.0
    """Balance constant of the adapter (App. A)."""
    adapter_feed_forward: bool = False
    """A gated feed-forward after the adapter's attention, as GLIGEN has it. The paper prints the attention term only
    (Sec. 3.3), though its count of 2.5 B parameters is reached only with it; the released code has it."""
    absent_slots: AbsentSlots = AbsentSlots.PACKED
    """Choice: the paper is silent."""
    box_condition: BoxCondition = BoxCondition.ALWAYS
    """The paper gives the adapter the box always."""
    box_edges: BoxEdges = BoxEdges.EXACT
    """Position of a box's edges in Fourier(l) and in l_m. Choice: the paper is silent."""
    fourier_order: FourierOrder = FourierOrder.BY_COORDINATE
    """Order of the sines and cosines in Fourier(l), a permutation of the perceptron's inputs. Choice: the paper is
    silent."""
    patch_tokens: PatchTokens = PatchTokens.AFTER_LN_POST
    """Choice: the paper is silent."""

    location_mask: LocationMask = LocationMask.MASK
    """Choice: the paper says "a binary mask feature map" and ablates "object masks" (Sec. 3.3, 4.3)."""
    location_marks: LocationMarks = LocationMarks.SUBJECT
    """Choice: the paper is silent."""

    lambda_attn: Factor = 0.01
    """Weight of L_attn in Eq. 3 (App. A)."""
    attention_loss: AttentionLoss = AttentionLoss.L1
    """Form of the distance in Eq. 2."""
    attention_reduction: LayerReduction = LayerReduction.SUM
    """How Eq. 2 gathers its layers."""
    attention_mean: AttentionMean = AttentionMean.ENTITIES
    """Mean over the entities in Eq. 2."""
    attention_mask_resize: MaskResize = MaskResize.AREA
    """Reduction of M_k in Eq. 2 to a layer's size. Choice: the paper is silent."""
    attention_tokens: EntityTokens = EntityTokens.LABEL_AND_PLACEHOLDER
    """The y_k of Eq. 2."""
    attention_downsampling: tuple[Count, ...] = (2, 4, 8)
    """The layers l of Eq. 2, by how much smaller than the latent their maps are: h_l = w_l = 32, 16 and 8 at 512 px."""

    null_branches: NullBranches = NullBranches.ADAPTER_OFF
    """Choice: the paper does not say what its guidance leaves out."""
    drop: DropConfig = DropConfig()
    subject: SubjectConfig = SubjectConfig()
    departures: DeparturesConfig = DeparturesConfig()

    @model_validator(mode="after")
    def _choices_fit_together(self) -> "ModelConfig":
        if self.box_condition is BoxCondition.NULL_FOR_SINGLE and not self.use_box_coordinates:
            raise ValueError(
                'model.box_condition="null_for_single" has no box to leave out while model.use_box_coordinates=false: '
                'set model.box_condition="always"'
            )
        if self.use_attention_control and not self.attention_downsampling:
            raise ValueError(
                "model.attention_downsampling=[] leaves Eq. 2 without layers: name some, or set "
                "model.use_attention_control=false"
            )
        return self
