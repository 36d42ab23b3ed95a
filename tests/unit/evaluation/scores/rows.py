"""Scores of made-up images."""

from evaluation.scores.image_score import ImageScore


def score(subjects: str, value: float | None, pairs: int = 1, group: str = "place") -> ImageScore:
    reason = "missing" if value is None else ""
    return ImageScore(f"{subjects}/00", 0, subjects, group, "DINO", value, pairs, reason)
