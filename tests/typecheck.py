"""What checks the named axes of `model`'s signatures while tests run (`--jaxtyping-packages` in pyproject.toml)."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""An int may stand where a float is asked for, as Python's typing has it."""
