# What a developer does. Only python3.11 or 3.12 and pip are needed; everything goes into .venv.
.DEFAULT_GOAL := help
.PHONY: help install run test lint bench report train clean
SHELL := /bin/sh

# The first that runs and is new enough (a shim may be there and not run).
PYTHON ?= $(shell for p in python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# The CPU build where an index has one under this name; a machine with a GPU may already hold its own torch.
TORCH ?= torch==2.13.0
# These three ask for packages that do not install or are not needed: their weights are what counts.
NO_DEPS := Resemblyzer==0.1.4 distillmos==0.9.1 xls-r-sqa==0.1.0

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  make %-8s %s\n", $$1, $$2}'

install: $(VENV)/.run ## .venv with what the main job needs

run: install ## the main job: every rule on the bundled pair, on two CPU cores in about five minutes
	$(BIN)/python experiments/run.py -m experiment=bundled_rules device=cpu devices=2

test: $(VENV)/.dev lint ## lint and all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q

lint: $(VENV)/.dev ## ruff, mypy, import-linter
	$(BIN)/ruff check pcg experiments tests
	$(BIN)/ruff format --check pcg experiments tests
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev ## speed against transformers and against the ideal
	$(BIN)/python experiments/bench.py

report: install ## table and plots of a study: make report STUDY=bundled_rules
	$(BIN)/python experiments/report.py study=$(or $(STUDY),bundled_rules)

train: $(VENV)/.dev ## make the bundled pair anew: corpus to draft
	for stage in corpus heldout codec tokens target draft; do $(BIN)/python experiments/train.py trainer=$$stage || exit 1; done

clean: ## caches and builds; results under outputs/ stay
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(VENV)/.torch:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import torch' 2>/dev/null || $(PIP) install -q "$(TORCH)"
	touch $@

$(VENV)/.run: $(VENV)/.torch pyproject.toml
	$(PIP) install -q -e '.[bundled]'
	$(PIP) install -q --no-deps $(NO_DEPS)
	touch $@

$(VENV)/.dev: $(VENV)/.run pyproject.toml
	$(PIP) install -q -e '.[dev]'
	touch $@
