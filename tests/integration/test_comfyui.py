"""ComfyUI's nodes against a real server, loaded by file and called with keyword arguments, as ComfyUI does it."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from flows.generation.generator import Generator
from flows.generation.job import parse_job
from tests.serving import TAXI, make_service, running

FOLDER = Path("integrations/comfyui").resolve()
TYPES = {"IMAGE", "MASK", "STRING", "INT", "FLOAT", "BOOLEAN", "SUBJECT_DIFFUSION_SUBJECT"}
"""Types of inputs and outputs: ComfyUI's, and the link between the nodes."""


@pytest.fixture(scope="module")
def nodes() -> ModuleType:
    """The package, under a name that is no identifier, as in ComfyUI's custom_nodes folder."""
    name = str(FOLDER).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(
        name, FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def generator() -> Generator:
    return Generator()


def run(nodes: ModuleType, name: str, **given: object) -> tuple:
    """Run a node with the defaults of its widgets."""
    node = nodes.NODE_CLASS_MAPPINGS[name]
    inputs = node.INPUT_TYPES()
    assert given.keys() <= inputs["required"].keys() | inputs["optional"].keys()
    values = {}
    for field, (kind, *options) in {**inputs["required"], **inputs["optional"]}.items():
        if isinstance(kind, list):
            values[field] = kind[0]
        elif options and "default" in options[0]:
            values[field] = options[0]["default"]
    result = getattr(node(), node.FUNCTION)(**{**values, **given})
    assert isinstance(result, tuple)
    assert len(result) == len(node.RETURN_TYPES)
    return result


def load_image() -> tuple[torch.Tensor, torch.Tensor]:
    """The taxi as ComfyUI's Load Image gives it: an image [1, H, W, 3], and a mask [1, H, W] that is 1 outside."""
    pixels = np.asarray(Image.open(TAXI).convert("RGBA"), np.float32) / 255
    return torch.from_numpy(pixels[None, ..., :3]), 1 - torch.from_numpy(pixels[None, ..., 3])


def test_the_nodes_have_the_interface_of_comfyui(nodes):
    assert nodes.NODE_CLASS_MAPPINGS.keys() == nodes.NODE_DISPLAY_NAME_MAPPINGS.keys()
    for node in nodes.NODE_CLASS_MAPPINGS.values():
        inputs = node.INPUT_TYPES()
        assert inputs.keys() <= {"required", "optional", "hidden"}
        kinds = [kind for part in inputs.values() for kind, *_ in part.values()]
        assert all(isinstance(kind, list) or kind in TYPES for kind in kinds)
        assert set(node.RETURN_TYPES) <= TYPES
        assert len(node.RETURN_NAMES) == len(node.RETURN_TYPES)
        assert callable(getattr(node, node.FUNCTION))
        assert node.CATEGORY == "Subject-Diffusion"


def test_a_workflow_gives_the_image_of_python(nodes, generator):
    image, mask = load_image()
    with running(make_service(generator)) as url:
        box = {"place_in_box": True, "left": 0.2, "top": 0.2, "right": 0.8, "bottom": 0.9}
        (subject,) = run(nodes, "SubjectDiffusionSubject", image=image, mask=mask, label="vehicle", **box)
        settings = {"prompt": "a vehicle in the snow", "seed": 4, "steps": 3}
        (images,) = run(nodes, "SubjectDiffusionGenerate", **settings, count=2, server=url, subject_1=subject)
    assert images.shape == (2, 64, 64, 3)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < 0.3 < 0.7 < images.max() <= 1
    subjects = [{"label": "vehicle", "images": str(TAXI), "box": (0.2, 0.2, 0.8, 0.9)}]
    expected = generator.generate(parse_job({**settings, "n": 2, "subjects": subjects}, "test"), TAXI.parents[2])
    for one, other in zip(images, expected, strict=True):
        assert np.abs(one.numpy() * 255 - np.asarray(other.image, float)).max() <= 1.5


def test_errors_are_those_of_the_server(nodes, generator, monkeypatch):
    with running(make_service(generator), token="s3cret") as url:
        with pytest.raises(RuntimeError, match="token"):
            run(nodes, "SubjectDiffusionGenerate", steps=1, server=url)
        monkeypatch.setenv("SUBJECT_DIFFUSION_TOKEN", "s3cret")
        assert run(nodes, "SubjectDiffusionGenerate", steps=1, server=url)[0].shape == (1, 64, 64, 3)
        with pytest.raises(RuntimeError, match="Nope"):
            run(nodes, "SubjectDiffusionGenerate", steps=1, server=url, scheduler="Nope")
    with pytest.raises(RuntimeError, match="subject-diffusion serve"):
        run(nodes, "SubjectDiffusionGenerate", steps=1, server="http://127.0.0.1:9")
