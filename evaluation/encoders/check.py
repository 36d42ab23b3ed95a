"""Check the weights of the encoders without loading them: settings, names, shapes and types of tensors.

Nothing is downloaded. Values of tensors are not read, so damage inside a tensor is not found; loading finds values that
are not finite.
"""

from collections.abc import Iterator
from pathlib import Path

from evaluation.config import EncodersConfig
from evaluation.encoders.checkpoint import HF_NAMES, floats, read_headers
from evaluation.encoders.clip import clip_settings, empty_clip, require_activation
from evaluation.encoders.clip_files import read_clip
from evaluation.encoders.dino import CLASSES, dino_architecture, read_dino
from evaluation.encoders.face import WEIGHTS_URL, empty_facenet, facenet_tensors
from evaluation.encoders.load import SETTINGS, is_dino
from evaluation.errors import EvaluationError
from evaluation.protocols import EncoderSpec
from infra.weights.compare import compare, compare_as_transformers
from infra.weights.findings import CheckedPart, Findings
from infra.weights.sources import HubSource, file_cure, find_file, find_folder, folder_cure
from model.errors import ModelError

_FOLDER, _PICKLED = ("config.json", HF_NAMES[0]), ("config.json", HF_NAMES[1])
SOURCES = {
    "dino_vits16": HubSource("facebook/dino-vits16", 86_700_000, "Apache-2.0", _PICKLED),
    "dino_vits8": HubSource("facebook/dino-vits8", 86_700_000, "Apache-2.0", _FOLDER),
    "dinov2_vits14": HubSource("facebook/dinov2-small", 88_000_000, "Apache-2.0", _FOLDER),
    "clip_vitb32": HubSource("openai/clip-vit-base-patch32", 605_000_000, "", _PICKLED),
    "clip_vitl14": HubSource("openai/clip-vit-large-patch14", 1_710_000_000, "", _FOLDER),
}
"""Published weights by setting."""
_FACENET_BYTES = 107_000_000
"""Size that its README gives."""


def check_evaluation_weights(config: EncodersConfig) -> Iterator[CheckedPart]:
    """Yield each encoder; that of faces only if it is set, since a single protocol needs it."""
    for setting, spec in SETTINGS.items():
        yield check_encoder(spec, setting, getattr(config, setting))
    if config.facenet is not None:
        yield check_facenet(config.facenet)


def check_encoder(spec: EncoderSpec, setting: str, source: str) -> CheckedPart:
    """Check the weights of one encoder.

    Args:
        spec: the encoder.
        setting: name of its setting in `evaluation.encoders`.
        source: value of the setting.
    """
    findings = Findings((EvaluationError, ModelError))
    with findings.collect():
        path = Path(source).expanduser()
        (_check_dino if is_dino(spec) else _check_clip)(
            path if path.is_file() else find_folder(source, None), spec, findings
        )
    name = f"evaluation.encoders.{setting}"
    return findings.part(f"encoder, {spec.name}", name, source, folder_cure(source, None, SOURCES[setting], name))


def check_facenet(source: str) -> CheckedPart:
    """Check the weights of the encoder of faces."""
    findings = Findings((EvaluationError, ModelError))
    with findings.collect():
        path = find_file(source)
        findings.add_size(path.stat().st_size)
        network = empty_facenet()
        findings.add_differences(
            compare(facenet_tensors(read_headers(path)), floats(network.state_dict())), strict=True
        )
    cure = file_cure(source, WEIGHTS_URL, _FACENET_BYTES, "")
    return findings.part("encoder, FaceNet", "evaluation.encoders.facenet", source, cure)


def _check_dino(path: Path, spec: EncoderSpec, findings: Findings) -> None:
    weights = read_dino(path, dino_architecture(spec), spec, read_headers)
    findings.add_size(weights.checkpoint.path.stat().st_size)
    _, network, arguments = CLASSES[weights.config.model_type]
    differences = compare_as_transformers(dict(weights.tensors), network, weights.config, arguments)
    findings.add_differences(differences, strict=True)


def _check_clip(path: Path, spec: EncoderSpec, findings: Findings) -> None:
    weights = read_clip(path, read_headers)
    findings.add_size(weights.checkpoint.path.stat().st_size)
    with findings.collect():
        require_activation(weights, spec)
    network = empty_clip(clip_settings(spec))
    findings.add_differences(compare(weights.tensors, network.state_dict()), strict=True)
