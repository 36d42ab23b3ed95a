"""Logging, which an entry point sets up once. Modules only call `logging.getLogger(__name__)`."""

import logging
import os
import sys

OURS = ("flows", "labeling", "model", "training", "evaluation", "infra", "miniature")


def setup_logs(level: int = logging.INFO) -> None:
    """Log this project's messages to stderr, one line each; other libraries log warnings only."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(name)s: %(message)s", "%H:%M:%S"))
    for name in OURS:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False
