"""Errors of an evaluation.

EvaluationError
  InvalidBenchmark     a benchmark's file or a user's list of subjects is unusable
  InvalidProtocol      no protocol of the name, or a benchmark and a protocol that do not suit each other
  EncoderWeightsError  an encoder's weights are missing, unreadable, or of another network
  ImagesError          a folder of images lacks images, has too many, or holds some that cannot be read
  JudgeError           the API of a judge refuses a request, or does not answer

An image that cannot be scored is no error where the protocol says how to count it: it gets a row with its reason.
"""


class EvaluationError(Exception):
    """Base of every error raised on purpose by `evaluation`."""


class InvalidBenchmark(EvaluationError):
    """A benchmark's file or a user's list of subjects is unusable."""


class InvalidProtocol(EvaluationError):
    """No protocol has the name, or a benchmark and a protocol do not suit each other."""


class EncoderWeightsError(EvaluationError):
    """An encoder's weights are missing, unreadable, or of another network than the protocol names."""


class ImagesError(EvaluationError):
    """A folder of images lacks images, has too many, or holds some that cannot be read."""


class JudgeError(EvaluationError):
    """The API of a judge refuses a request, or does not answer."""
