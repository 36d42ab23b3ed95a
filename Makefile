# `make` is what CI runs. Every target sets up the virtual environment first, if it is not there.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || echo python3)
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: all setup lint test test-slow bench demo clean-demo

all: lint test

setup: $(VENV)/ready

$(VENV)/ready: requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --no-deps -r requirements.txt
	$(BIN)/pip install --no-deps --no-build-isolation -e .
	touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: setup
	$(BIN)/pytest

test-slow: setup
	$(BIN)/pytest -m slow

bench: setup
	$(BIN)/pytest tests/benchmarks -m bench -s

demo: setup
	$(BIN)/subject-diffusion demo

clean-demo:
	rm -rf out/demo
