import pytest

from evaluation.errors import InvalidProtocol
from evaluation.protocol_catalog import IMITATED, PROTOCOLS, load_protocol
from evaluation.protocols import Average, Comparison, EncoderPrecision, MissingImages


def test_protocols_by_name() -> None:
    assert {name: protocol.name for name, protocol in PROTOCOLS.items()} == {name: name for name in PROTOCOLS}
    assert set(IMITATED.values()) <= set(PROTOCOLS)
    with pytest.raises(InvalidProtocol, match="did you mean dreambooth"):
        load_protocol("dreamboth")
    with pytest.raises(InvalidProtocol, match="there are subject-diffusion, "):
        load_protocol("???")


def test_no_two_protocols_are_the_same_but_for_names_and_notes() -> None:
    names = {"name", "title", "source", "notes"}
    choices = {name: protocol.model_dump_json(exclude=names) for name, protocol in PROTOCOLS.items() if name != "mip"}
    assert len(set(choices.values())) == len(choices)
    assert PROTOCOLS["mip"].model_dump(exclude=names) == PROTOCOLS["custom-diffusion"].model_dump(exclude=names)


def test_quirks_of_published_evaluators() -> None:
    """What the code of each does, from evaluation-protocol descriptions in their repositories."""
    uno, mip, one, plus = (PROTOCOLS[name] for name in ("uno", "mip", "one-image", "dreambench++"))
    assert (uno.clip_text_at_zero, uno.text_scale, uno.missing) == (True, 1.0, MissingImages.LEAVE_OUT)
    assert uno.prompt_encoder is not None
    assert uno.prompt_encoder.dtype is EncoderPrecision.FLOAT16
    assert (mip.clip_text_at_zero, mip.text_scale) == (True, 2.5)
    assert (one.comparison, plus.comparison) == (Comparison.ONE_IMAGE, Comparison.ONE_IMAGE)
    assert plus.scale == 100
    assert [spec.architecture for spec in plus.subject_encoders][:2] == ["dino_vits8", "dinov2_vits14"]
    assert PROTOCOLS["dreambooth"].average is Average.MACRO
    assert PROTOCOLS["subject-diffusion"].average is Average.MICRO
