"""Check an original checkpoint file of Segment Anything without loading it."""

from infra.weights.compare import compare
from infra.weights.files import open_file, require_tensors
from infra.weights.findings import CheckedPart, Findings
from infra.weights.sources import file_cure, find_file
from labeling.backends.folder_check import HEADERS
from labeling.backends.sam.checkpoint import architecture
from labeling.backends.sam.package import SETTING, build
from labeling.config import SegmentConfig
from labeling.errors import BackendWeightsError

CHECKPOINT_URL = "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_h_4b8939.pth"
CHECKPOINT_BYTES = 2_564_550_879


def check_package_segmenter(config: SegmentConfig) -> CheckedPart:
    """Check the checkpoint file of `config`."""
    findings = Findings((BackendWeightsError,))
    with findings.collect():
        file = find_file(config.checkpoint)
        findings.add_size(file.stat().st_size)
        tensors = require_tensors(file, open_file(file, HEADERS))
        network = build(architecture(tensors, str(file)))
        findings.add_differences(compare(tensors, network.state_dict()), strict=True)
    cure = file_cure(config.checkpoint, CHECKPOINT_URL, CHECKPOINT_BYTES, "Apache-2.0")
    return findings.part("segmenter, SAM", SETTING, config.checkpoint, cure)
