# `make` is what CI runs. Every target sets up the virtual environment first, if it is not there.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || echo python3)
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: all setup lint test test-slow bench demo score weights clean-demo

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

# 600 fresh scenes, a sixth of them of things that no network was taught: the figures of miniature/weights/README.md.
score: setup
	$(BIN)/subject-diffusion demo --config score --scenes 606 --seed 20261 --held-out 0.16 --refused 0

# From nothing: about two and a half hours of one core. A run that was stopped goes on.
weights: setup
	for name in sam grounding_dino blip2; do \
		$(BIN)/python -m miniature.train $$name --out out/weights/$$name --workers 1 && \
		mkdir -p miniature/weights/$$name && cp out/weights/$$name/weights/* miniature/weights/$$name/ || exit 1; \
	done

clean-demo:
	rm -rf out/demo
