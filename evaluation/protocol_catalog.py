"""Named protocols: this project's, and those of published evaluators with their quirks.

    protocol = load_protocol("dreambooth")

Where a publication is silent, the choice and its reason are in the notes, which every report prints.
"""

from collections.abc import Mapping
from difflib import get_close_matches

from evaluation.encoders.specs import CLIP_VITB32, CLIP_VITL14, DINO_VITS8, DINO_VITS16, DINOV2_VITS14
from evaluation.errors import InvalidProtocol
from evaluation.protocols import Average, Comparison, EncoderPrecision, EncoderSpec, MissingImages, Protocol

_UNNAMED_CLIP = "The publication names no variant of CLIP; OpenAI's ViT-B/32 is what the community uses."
_HALF_CLIP: EncoderSpec = CLIP_VITB32.model_copy(update={"dtype": EncoderPrecision.FLOAT16})

DREAMBOOTH = Protocol(
    name="dreambooth",
    title="DreamBooth",
    source="Ruiz et al., DreamBooth, CVPR 2023, Sec. 4.1",
    subject_encoders=(DINO_VITS16, CLIP_VITB32),
    prompt_encoder=CLIP_VITB32,
    comparison=Comparison.ALL_REFERENCES,
    average=Average.MACRO,
    notes=(
        _UNNAMED_CLIP,
        "The input photo is one of the photos that an image is compared with, so a copy of it raises the scores.",
    ),
)
"""Mean over all photos of a subject, then over subjects; four images a prompt in the publication."""
SUBJECT_DIFFUSION = DREAMBOOTH.model_copy(
    update={
        "name": "subject-diffusion",
        "title": "Subject-Diffusion",
        "source": "Subject-Diffusion, Sec. 4.2 and App. D, after BLIP-Diffusion",
        "average": Average.MICRO,
        "notes": (
            _UNNAMED_CLIP,
            "“Over all pairs of real and generated images” is read as a mean that weights subjects by their photos.",
            "Of two subjects, an image's score is the mean of its similarities to both, which hides a missing one.",
        ),
    }
)
"""Mean over all pairs of an image and a photo; six images a prompt in the publication."""
ALL_BUT_INPUT = DREAMBOOTH.model_copy(
    update={
        "name": "all-but-input",
        "title": "All photos but the input",
        "source": "this project",
        "comparison": Comparison.ALL_BUT_INPUT,
        "notes": (
            _UNNAMED_CLIP,
            "As DreamBooth's, but the input photo is not compared with, so a copy of it gains nothing.",
        ),
    }
)
"""DreamBooth's without the input photo."""
ONE_IMAGE = DREAMBOOTH.model_copy(
    update={
        "name": "one-image",
        "title": "One image (Kosmos-G)",
        "source": "Kosmos-G, sample_kosmosg_dreambench.py",
        "comparison": Comparison.ONE_IMAGE,
        "average": Average.MICRO,
        "notes": (
            "An image is compared with the input photo alone. A copy of the photo scores 1.",
            "Published images: four a prompt, 100 steps of DPM-Solver, guidance 7.5, prompts without the class word.",
        ),
    }
)
"""Comparison with the input photo alone, as Kosmos-G, Emu2 and OmniGen print it."""
UNO = DREAMBOOTH.model_copy(
    update={
        "name": "uno",
        "title": "UNO's evaluator",
        "source": "bytedance/UNO, evaluation scripts of August 2025",
        "subject_encoders": (DINO_VITS16, _HALF_CLIP),
        "prompt_encoder": _HALF_CLIP,
        "clip_text_at_zero": True,
        "missing": MissingImages.LEAVE_OUT,
        "notes": (
            "Negative similarities to a prompt count as 0. CLIP runs in half precision, as on a GPU there.",
            "Images that are missing are skipped there in silence; here they are counted.",
        ),
    }
)
"""UNO's evaluator with its quirks."""
CUSTOM_DIFFUSION = DREAMBOOTH.model_copy(
    update={
        "name": "custom-diffusion",
        "title": "Custom Diffusion's evaluator",
        "source": "adobe-research/custom-diffusion@c9c8be2, customconcept101/evaluate.py",
        "subject_encoders": (DINO_VITS16, _HALF_CLIP),
        "prompt_encoder": _HALF_CLIP,
        "clip_text_at_zero": True,
        "text_scale": 2.5,
        "notes": (
            "CLIP-T is 2.5 times the similarity, and negative ones count as 0 (CLIPScore's formula).",
            "CLIP runs in half precision, as on a GPU there.",
        ),
    }
)
"""Custom Diffusion's evaluator with its quirks."""
MIP = CUSTOM_DIFFUSION.model_copy(
    update={
        "name": "mip",
        "title": "MIP-Adapter's evaluator",
        "source": "MIP-Adapter, evaluate_func.py, after Custom Diffusion",
        "notes": (
            *CUSTOM_DIFFUSION.notes,
            "Published images: one a prompt, seed 420, 30 steps.",
        ),
    }
)
"""MIP-Adapter's evaluator with its quirks."""
DREAMBENCH_PLUS = DREAMBOOTH.model_copy(
    update={
        "name": "dreambench++",
        "title": "DreamBench++",
        "source": "yuangpeng/dreambench_plus, metrics",
        "subject_encoders": (DINO_VITS8, DINOV2_VITS14, CLIP_VITB32),
        "comparison": Comparison.ONE_IMAGE,
        "average": Average.MICRO,
        "scale": 100.0,
        "notes": (
            "Scores are 100 times the similarity. Its DINO is ViT-S/8, so it is not DreamBench's.",
            "Published images: one a prompt, seed 42. The judge, gpt-4o-2024-05-13, is no part of this table.",
        ),
    }
)
"""DreamBench++'s automatic metrics."""
FASTCOMPOSER_PROMPT = DREAMBOOTH.model_copy(
    update={
        "name": "fastcomposer-prompt",
        "title": "FastComposer's prompt consistency",
        "source": "mit-han-lab/fastcomposer, evaluation/single_object",
        "subject_encoders": (),
        "prompt_encoder": CLIP_VITL14,
        "average": Average.MICRO,
        "notes": ("The prompt has no unique token. Identity has a table of its own: fastcomposer-identity.",),
    }
)
"""Prompt consistency of FastComposer's single-subject human benchmark."""
FASTCOMPOSER_IDENTITY = FASTCOMPOSER_PROMPT.model_copy(
    update={
        "name": "fastcomposer-identity",
        "title": "FastComposer's identity",
        "prompt_encoder": None,
        "faces": True,
        "comparison": Comparison.ONE_IMAGE,
        "notes": (
            "The first face of an image against that of the input photo: MTCNN, then InceptionResnetV1 (VGGFace2).",
            "A negative similarity counts as 0, and so does an image without a face.",
        ),
    }
)
"""Identity of FastComposer's single-subject human benchmark."""

PROTOCOLS: Mapping[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        SUBJECT_DIFFUSION,
        DREAMBOOTH,
        ALL_BUT_INPUT,
        ONE_IMAGE,
        UNO,
        CUSTOM_DIFFUSION,
        MIP,
        DREAMBENCH_PLUS,
        FASTCOMPOSER_PROMPT,
        FASTCOMPOSER_IDENTITY,
    )
}
"""All protocols by name."""
IMITATED: Mapping[str, str] = {
    "dreambooth": DREAMBOOTH.name,
    "kosmos-g": ONE_IMAGE.name,
    "uno": UNO.name,
    "mip": MIP.name,
    "custom-diffusion": CUSTOM_DIFFUSION.name,
    "dreambench++": DREAMBENCH_PLUS.name,
}
"""Protocol of each published evaluator."""


def load_protocol(name: str) -> Protocol:
    """Return a protocol.

    Raises:
        InvalidProtocol: no protocol has this name.
    """
    if name not in PROTOCOLS:
        close = get_close_matches(name, PROTOCOLS, n=1)
        suggestion = f"did you mean {close[0]}?" if close else f"there are {', '.join(PROTOCOLS)}"
        raise InvalidProtocol(f"protocol {name!r}: {suggestion}")
    return PROTOCOLS[name]
