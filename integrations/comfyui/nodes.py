"""The nodes: one subject with its label and place, and the images of a prompt with up to three subjects.

An IMAGE of ComfyUI is a tensor [B, H, W, C] from 0 to 1, a MASK a tensor [B, H, W] that is 1 inside. The masks of
ComfyUI's own Load Image node are 1 where the file is transparent, so `invert_mask` is on by default.
"""

import base64
import io
import json
import os
import urllib.error
import urllib.request

import numpy as np
import torch
from PIL import Image

CATEGORY = "Subject-Diffusion"
SUBJECT = "SUBJECT_DIFFUSION_SUBJECT"
"""Type of the link between the two nodes."""
SERVER = "http://127.0.0.1:7860"
TOKEN_VARIABLE = "SUBJECT_DIFFUSION_TOKEN"
"""Variable with the access token: a token in a field would be saved with the workflow."""
SCHEDULERS = ["default", "DDIM", "DPMSolverMultistep", "UniPCMultistep", "EulerDiscrete", "PNDM", "DDPM"]
TIMEOUT_S = 3600


class SubjectDiffusionSubject:
    """A subject: its picture, what surrounds it, its label, and its place in the new image."""

    CATEGORY = CATEGORY
    RETURN_TYPES = (SUBJECT,)
    RETURN_NAMES = ("subject",)
    FUNCTION = "make"
    DESCRIPTION = "A subject for Subject-Diffusion. Without a mask, the server's detector looks for the label."

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        """Return the inputs in ComfyUI's form."""
        share = {"min": 0.0, "max": 1.0, "step": 0.01}
        return {
            "required": {
                "image": ("IMAGE", {"tooltip": "Picture of the subject; a batch shows one subject several times."}),
                "label": ("STRING", {"default": "dog", "tooltip": "Name of the subject in one or a few words."}),
            },
            "optional": {
                "mask": ("MASK", {"tooltip": "Mask of the subject in its picture."}),
                "invert_mask": ("BOOLEAN", {"default": True, "tooltip": "On for masks of the node Load Image."}),
                "strength": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 10.0, "step": 0.05}),
                "place_in_box": ("BOOLEAN", {"default": False, "tooltip": "Whether the box below places the subject."}),
                "left": ("FLOAT", {"default": 0.1, **share}),
                "top": ("FLOAT", {"default": 0.3, **share}),
                "right": ("FLOAT", {"default": 0.9, **share}),
                "bottom": ("FLOAT", {"default": 0.9, **share}),
            },
        }

    def make(
        self,
        image: torch.Tensor,
        label: str,
        mask: torch.Tensor | None = None,
        invert_mask: bool = True,
        strength: float = 1.0,
        place_in_box: bool = False,
        left: float = 0.1,
        top: float = 0.3,
        right: float = 0.9,
        bottom: float = 0.9,
    ) -> tuple[dict]:
        """Return the subject as the API takes it."""
        subject = {"label": label, "image": [encode_image(one) for one in image], "strength": strength}
        if mask is not None:
            masks = 1 - mask if invert_mask else mask
            subject["mask"] = [encode_image(one) for one in masks.expand(len(image), -1, -1)]
        if place_in_box:
            subject["box"] = [left, top, right, bottom]
        return (subject,)


class SubjectDiffusionGenerate:
    """Images of a prompt with up to three subjects."""

    CATEGORY = CATEGORY
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("images",)
    FUNCTION = "generate"
    DESCRIPTION = f"Images by a server of `subject-diffusion serve`. Its token, if any, is read from {TOKEN_VARIABLE}."

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        """Return the inputs in ComfyUI's form."""
        guidance = {"default": -1.0, "min": -1.0, "max": 100.0, "step": 0.1, "tooltip": "-1: the model's default"}
        return {
            "required": {
                "prompt": ("STRING", {"multiline": True, "default": "a dog on the beach"}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**63 - 1001, "control_after_generate": True}),
                "count": ("INT", {"default": 1, "min": 1, "max": 100}),
                "steps": ("INT", {"default": 0, "min": 0, "max": 1000, "tooltip": "0: the model's default"}),
                "text_guidance": ("FLOAT", guidance),
                "image_guidance": ("FLOAT", guidance),
                "scheduler": (SCHEDULERS,),
                "server": ("STRING", {"default": SERVER}),
            },
            "optional": {
                "negative_prompt": ("STRING", {"multiline": True, "default": ""}),
                "subject_1": (SUBJECT,),
                "subject_2": (SUBJECT,),
                "subject_3": (SUBJECT,),
            },
        }

    def generate(
        self,
        prompt: str,
        seed: int,
        count: int,
        steps: int,
        text_guidance: float,
        image_guidance: float,
        scheduler: str,
        server: str,
        negative_prompt: str = "",
        subject_1: dict | None = None,
        subject_2: dict | None = None,
        subject_3: dict | None = None,
    ) -> tuple[torch.Tensor]:
        """Return the images [B, H, W, 3] in 0 to 1.

        Raises:
            RuntimeError: the server cannot be reached, or refuses the request; the message is the server's.
        """
        body = {
            "prompt": prompt,
            "negative_prompt": negative_prompt,
            "seed": seed,
            "n": count,
            "steps": steps or None,
            "text_guidance": None if text_guidance < 0 else text_guidance,
            "image_guidance": None if image_guidance < 0 else image_guidance,
            "scheduler": None if scheduler == "default" else scheduler,
            "subjects": [one for one in (subject_1, subject_2, subject_3) if one is not None],
        }
        answer = post(f"{server.rstrip('/')}/v1/images/generations", body)
        return (torch.stack([decode_image(one["b64_json"]) for one in answer["data"]]),)


def post(url: str, body: dict) -> dict:
    """Send a request to the API, and return its answer.

    Raises:
        RuntimeError: the server cannot be reached, or refuses the request.
    """
    headers = {"Content-Type": "application/json"}
    if token := os.environ.get(TOKEN_VARIABLE):
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"Subject-Diffusion: {_message(error)}") from None
    except OSError as error:
        raise RuntimeError(f"no server at {url} ({error}): start it with `subject-diffusion serve`") from None


def _message(error: urllib.error.HTTPError) -> str:
    try:
        return json.load(error)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return str(error)


def encode_image(image: torch.Tensor) -> str:
    """Return an image [H, W, C] or mask [H, W], 0 to 1, as a PNG in a data URL."""
    pixels = (image.detach().cpu().numpy().clip(0, 1) * 255).round().astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1:] == (1,) and pixels.ndim == 3 else pixels).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def decode_image(encoded: str) -> torch.Tensor:
    """Return an image of the API as a tensor [H, W, 3] in 0 to 1."""
    image = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
    return torch.from_numpy(np.asarray(image, np.float32) / 255)


NODE_CLASS_MAPPINGS = {
    "SubjectDiffusionSubject": SubjectDiffusionSubject,
    "SubjectDiffusionGenerate": SubjectDiffusionGenerate,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "SubjectDiffusionSubject": "Subject (Subject-Diffusion)",
    "SubjectDiffusionGenerate": "Generate (Subject-Diffusion)",
}
