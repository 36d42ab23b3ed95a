"""Errors of the small world that a person can mend: the message says how."""


class WorldError(Exception):
    """The world cannot be written or served."""


class FolderError(Exception):
    """A folder of cut-outs, or the file that describes it, cannot be used."""


class AblationError(Exception):
    """Results of an ablation cannot be read, or are those of other settings."""
