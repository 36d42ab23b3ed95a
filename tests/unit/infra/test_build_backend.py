"""The project is used from a checkout: nothing is built for an index."""

import pytest

from infra.build_backend import build_sdist, build_wheel


@pytest.mark.parametrize("build", [build_wheel, build_sdist])
def test_a_distribution_is_refused_with_the_reason_and_the_way_to_install(build, tmp_path):
    with pytest.raises(SystemExit, match=r"used from a checkout.*make setup"):
        build(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
