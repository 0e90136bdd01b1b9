# Works from a clean checkout; needs Python 3.11 or later, make and a C compiler. Everything is installed in .venv.
#   make test ARGS="-k csls"      make demo ARGS="--set seed=2"      make test PYTHON=/opt/python/bin/python3.12

.DEFAULT_GOAL := help
.PHONY: help demo test check format clean

# The first that runs and is new enough (a name may be there and still not run, as the shims of pyenv are).
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for name in python3.13 python3.12 python3.11 python3; do \
	$$name -c '$(NEW_ENOUGH)' 2>/dev/null && command -v $$name && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(STAMPS)/demo ## the whole method, small, on data made on the spot: minutes on a laptop (ARGS go to `trelm demo`)
	$(BIN)/trelm demo $(ARGS)

test: $(STAMPS)/dev ## the whole test suite (ARGS go to pytest)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -rs $(ARGS)

check: $(STAMPS)/dev ## style and types: ruff, ruff format, mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMPS)/dev ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove caches and build outputs; keeps runs/ and .venv (remove .venv by hand to start afresh)
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: each part of the set-up is done once, and again when a file that it depends on changes.
$(STAMPS)/python:
	@$(or $(PYTHON),false) -c '$(NEW_ENOUGH)' 2>/dev/null || { \
	  found=$$($(or $(PYTHON),python3) --version 2>/dev/null || echo none); \
	  echo "trelm needs Python 3.11 or later, found $$found; install one, or name it: make PYTHON=/path/to/python3" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

# First and alone: a looser torch may pull another build with gigabytes of GPU packages. TORCH_INDEX names another index,
# such as PyTorch's own of CPU builds.
$(STAMPS)/torch: constraints.txt | $(STAMPS)/python
	$(PIP) torch==2.13.0 -c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	@touch $@

$(STAMPS)/demo: pyproject.toml constraints.txt $(STAMPS)/torch
	$(PIP) -e '.[demo]' -c constraints.txt
	@touch $@

$(STAMPS)/dev: pyproject.toml constraints.txt $(STAMPS)/torch
	$(PIP) -e '.[dev]' -c constraints.txt
	@touch $@
