"""Floating-point formats that a setting can choose for a network."""

from enum import StrEnum


class Precision(StrEnum):
    """Floating-point format of a network's matrix products."""

    FLOAT32 = "float32"
    """32 bits, 24 of them significant."""
    BFLOAT16 = "bfloat16"
    """16 bits, 8 of them significant: half the memory, and faster on most accelerators."""
