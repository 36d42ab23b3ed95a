"""Our loggers speak to stderr, once a message; other libraries are left as they were."""

import logging

import pytest

from infra.logs import OURS, setup_logs


@pytest.fixture(autouse=True)
def _loggers_stay_as_they_were():
    loggers = [logging.getLogger(name) for name in OURS]
    before = [(logger.level, logger.handlers, logger.propagate) for logger in loggers]
    yield
    for logger, (level, handlers, propagate) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.handlers, logger.propagate = handlers, propagate


def test_each_message_is_one_line_on_stderr(capsys):
    setup_logs()
    setup_logs()
    logging.getLogger("labeling.execution.run").info("%d images", 3)
    logging.getLogger("labeling.execution.run").debug("not this")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.endswith("I labeling.execution.run: 3 images\n")


def test_the_level_can_be_chosen(capsys):
    setup_logs(logging.WARNING)
    logging.getLogger("model").info("not this")
    logging.getLogger("model").warning("this")
    assert capsys.readouterr().err.endswith("W model: this\n")


def test_other_libraries_keep_to_themselves(capsys):
    root = logging.getLogger()
    handlers = list(root.handlers)
    setup_logs()
    assert root.handlers == handlers
    logging.getLogger("somebody.else").info("not this")
    assert capsys.readouterr().err == ""
