"""Errors of a request for images.

GenerationError
  InvalidJob          a setting, subject, image or prompt of the job cannot be used
  GenerationCanceled  the caller stopped the job
"""


class GenerationError(Exception):
    """Base of every error raised on purpose by `flows.generation`."""


class InvalidJob(GenerationError):
    """A part of the job cannot be used; the message names the part, its value and the cure."""


class OutputError(GenerationError):
    """An image cannot be written."""


class GenerationCanceled(GenerationError):
    """The caller stopped the job before its images were done."""
