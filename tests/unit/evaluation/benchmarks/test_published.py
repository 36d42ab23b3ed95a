"""Published scores: the paper's tables, and rows that never leave their benchmark and protocol."""

from evaluation.benchmarks.catalog import benchmark_names, copied_benchmark_names
from evaluation.benchmarks.published import Tuning, all_published_rows, published_rows
from evaluation.protocol_catalog import PROTOCOLS
from evaluation.protocols import Comparison


def scores(benchmark, protocol, **options):
    return {row.method: tuple(row.scores.values()) for row in published_rows(benchmark, protocol, **options)}


def test_rows_of_the_papers_tables_are_those_of_the_paper():
    assert scores("dreambench", "subject-diffusion")["Subject-Diffusion"] == (0.711, 0.787, 0.293)
    assert scores("dreambench", "dreambooth")["Real images"] == (0.774, 0.885)
    assert scores("dreambench-pairs", "subject-diffusion") == {
        "DreamBooth": (0.430, 0.695, 0.308),
        "Custom Diffusion": (0.464, 0.698, 0.300),
        "Subject-Diffusion": (0.506, 0.696, 0.310),
    }
    assert scores("human", "fastcomposer-identity")["Subject-Diffusion"] == (0.605,)
    assert scores("human", "fastcomposer-prompt")["Subject-Diffusion"] == (0.228,)


def test_ablations_are_given_on_request():
    for benchmark, without_adapter in (
        ("dreambench", (0.534, 0.731, 0.291)),
        ("dreambench-pairs", (0.411, 0.649, 0.307)),
    ):
        asked = scores(benchmark, "subject-diffusion", ablations=True)
        assert asked["(e) without adapter layer"] == without_adapter
        assert len(asked.keys() - scores(benchmark, "subject-diffusion").keys()) == 6


def test_pairs_of_the_paper_and_of_uno_share_no_table():
    assert scores("uno-pairs", "uno")["UNO"] == (0.542, 0.733, 0.322)
    assert scores("uno-pairs", "subject-diffusion") == scores("dreambench-pairs", "uno") == {}
    assert scores("dreambench-pairs-unique", "subject-diffusion") == {}


def test_comparison_with_one_image_has_a_table_of_its_own():
    assert scores("dreambench-kosmos-g", "one-image")["Kosmos-G"] == (0.694, 0.847, 0.287)
    for row in all_published_rows():
        if Comparison.ONE_IMAGE is row.comparison:
            assert not set(row.protocols) & {"dreambooth", "subject-diffusion", "uno"}


def test_the_papers_open_images_row_stands_in_no_table():
    """Its list is unpublished, so scores on the list of this project are not comparable with it."""
    assert [row.scores["DINO"] for row in all_published_rows() if not row.benchmarks] == [0.668]
    assert scores("openimages", "subject-diffusion") == {}


def test_rows_name_source_protocol_and_known_benchmarks():
    for row in all_published_rows():
        assert row.source
        assert row.protocols
        assert row.scores
        assert set(row.benchmarks) <= {*benchmark_names(), *copied_benchmark_names()}


def test_protocols_of_averaged_rows_are_those_of_the_catalogue():
    judged_otherwise = {"fastcomposer-identity", "dreambench++-judge"}
    assert {name for row in all_published_rows() for name in row.protocols} <= PROTOCOLS.keys() | judged_otherwise


def test_comparison_and_order_of_the_means_are_those_of_the_named_protocols():
    for row in all_published_rows():
        for protocol in (PROTOCOLS[name] for name in row.protocols if name in PROTOCOLS):
            assert row.comparison in (protocol.comparison, None)
            assert row.average in (protocol.average, None)


def test_a_method_occurs_once_in_a_table_unless_it_is_tuned_differently():
    keys = [
        (row.method, row.tuning, benchmark, protocol)
        for row in all_published_rows()
        for benchmark in row.benchmarks
        for protocol in row.protocols
    ]
    assert len(set(keys)) == len(keys)


def test_cautions_of_a_row_come_with_it():
    notes = {row.method: row.notes for row in published_rows("dreambench", "dreambooth")}
    assert ".774" in notes["PositionIC"][0]
    tunings = [row.tuning for row in all_published_rows() if row.method == "BLIP-Diffusion"]
    assert tunings == [Tuning.ZERO_SHOT, Tuning.FINE_TUNED]
