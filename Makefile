# `make` is what CI runs. Every target sets up the virtual environment first, if it is not there.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || echo python3)
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: all setup lint docs test test-slow bench bench-compare rehearsal demo score weights miniature miniature-marks clean-demo

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
	$(BIN)/codespell $$(git ls-files '*.py' '*.md' '*.toml' '*.sql' Makefile)
	! $(BIN)/pip check 2>/dev/null | grep --line-regexp --invert-match --fixed-strings --file infra/known_conflicts.txt
	$(MAKE) docs

# The site in site/, as zensical.toml describes it. `.venv/bin/zensical serve` shows it while you write.
docs: setup
	$(BIN)/subject-diffusion settings --markdown > docs/reference/settings.md
	$(BIN)/python -m typer flows.cli utils docs --name subject-diffusion --title "Command line" --output docs/reference/command-line.md
	$(BIN)/zensical build --strict --clean

test: setup
	$(BIN)/pytest -n 2 --dist loadfile

test-slow: setup
	$(BIN)/pytest -m slow

# Figures are appended to docs/benchmarks/history.jsonl, from which the page is drawn. Options: make bench OPTIONS="-k loader"
bench: setup
	$(BIN)/pytest tests/benchmarks -m bench -s --history docs/benchmarks/history.jsonl $(OPTIONS); status=$$?; \
		$(BIN)/python -m tests.benchmarks.history && exit $$status

# The working tree against BASE, in turns: fails on a ratio below .95. make bench-compare BASE=main OPTIONS="-k samples_per_core"
BASE ?= main
bench-compare: setup
	$(BIN)/python -m tests.benchmarks.compare $(BASE) $(OPTIONS)

# The whole chain in the published sizes with random weights: what it needs of this machine. A run that was stopped goes on.
# Options: make rehearsal OPTIONS="--fresh --image-px 512"
rehearsal: setup
	$(BIN)/python -m tests.benchmarks.rehearsal $(OPTIONS)

demo: setup
	$(BIN)/subject-diffusion demo

# 600 fresh scenes, a sixth of them of things that no network was taught: the figures of miniature/weights/README.md.
score: setup
	$(BIN)/subject-diffusion demo --config score --scenes 606 --seed 20261 --labels-only

# From nothing: the labellers, then the small Stable Diffusion with its judges. A run that was stopped goes on.
weights: setup
	for name in sam grounding_dino blip2 latent image_encoder base judge embedder shape_embedder; do \
		$(BIN)/python -m miniature.train $$name --out out/weights/$$name --workers 1 && \
		mkdir -p miniature/weights/$$name && cp -r out/weights/$$name/weights/. miniature/weights/$$name/ || exit 1; \
	done
	rm -rf miniature/weights/latent

# With those of the repository: a dataset of 6,000 scenes by the labellers, and the small model trained on it.
miniature: setup
	$(BIN)/subject-diffusion demo --config miniature --scenes 6000 --seed 7

# From its model: a dataset of 12,000 scenes with their true labels, and the second phase of training on it. Two cores, 1.5 hours.
MARKS := out/miniature_marks
miniature-marks: setup
	$(BIN)/python -m miniature.world.coco $(MARKS)/world --scenes 12000 --seed 7
	$(BIN)/subject-diffusion import $(MARKS)/world/instances.json $(MARKS)/sdd --format coco \
		--images $(MARKS)/world/images --captions $(MARKS)/world/captions.json --config miniature_marks
	$(BIN)/subject-diffusion train --config miniature_marks --here --resume latest

clean-demo:
	rm -rf out/demo
