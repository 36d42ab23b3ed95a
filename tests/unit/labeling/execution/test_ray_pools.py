"""Which workers of a run on Ray may keep their resources."""

import pytest

from labeling.execution.ray_pools import Reserved, stages_to_keep

NETWORKS = {
    "captions": Reserved(cpus=1, gpus=1, cpus_each=1),
    "detections": Reserved(cpus=2, gpus=2, cpus_each=1),
    "entities": Reserved(cpus=1, gpus=1, cpus_each=1),
}
OTHERS = [Reserved(cpus=1, gpus=0, cpus_each=1)]


@pytest.mark.parametrize(
    ("cpus", "gpus", "kept"),
    [
        ([64], [8], {"captions", "detections", "entities"}),
        ([64], [4], {"captions", "detections", "entities"}),
        ([64], [3], {"captions"}),  # detections need the other two
        ([64], [2], set()),
        ([6], [8], {"captions", "detections", "entities"}),
        ([5], [8], {"captions", "detections"}),
        ([2], [8], set()),  # a download and a stage need both
        ([3, 3], [4, 4], {"captions", "detections"}),  # one core free may be half a core on each node
    ],
)
def test_stages_are_kept_where_all_others_still_start(cpus, gpus, kept):
    assert stages_to_keep(NETWORKS, OTHERS, cpus, gpus) == kept


def test_a_larger_worker_without_a_network_needs_room_too():
    others = [Reserved(cpus=4, gpus=0, cpus_each=4)]
    assert stages_to_keep(NETWORKS, others, [8], [8]) == {"captions", "detections"}
