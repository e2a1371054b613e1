# Every target makes its own environment when it is missing; nothing needs installing by hand.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# `make demo` keeps its runs apart from your own store.
DEMO_HOME ?= $(CURDIR)/.demo

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint check bench reproduce page clean

help:  ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(READY)  ## Make .venv with dslbench and its development tools

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "dslbench needs Python 3.11 or newer; try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	@echo "setting up $(VENV) (a few minutes the first time: torch is large)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt torch numpy
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev,tune]'
	@touch $(READY)

demo: $(READY)  ## The main job on embedded data: dense, rp and dsl at 50 %, and the table
	DSLBENCH_HOME=$(DEMO_HOME) $(BIN)/dslbench compare --backbone lightgcn --dataset toy --sparsity 0.5 \
		--method dense --method rp --method dsl

test: $(READY)  ## The test suite
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(READY)  ## Style and types, for every Python that is supported
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.14

check: lint test  ## Style, types and tests, as CI does

bench: $(READY)  ## Speed against references, as ratios measured in one run
	$(BIN)/python benchmarks/run.py

# IMPORT names a folder with the data sets at hand (gowalla/, ml-1m/, ...), in place of downloads.
SCALE ?= quick
IMPORT ?=
reproduce: $(READY)  ## The paper's tables and figures into reproduction/ (SCALE=quick|laptop|paper, IMPORT=folder)
	$(BIN)/dslbench reproduce --scale $(SCALE) $(if $(IMPORT),--import "$(IMPORT)") --output reproduction

page: $(READY)  ## docs/index.html from the published runs in results/
	$(BIN)/dslbench report --records results --format html --output docs/index.html

clean:  ## Remove the environment, the demo's runs and caches
	rm -rf $(VENV) .demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
