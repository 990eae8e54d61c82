# Daily work. A fresh machine needs make and python3 (3.11 or newer, with venv); the rest is installed into $(VENV). The
# tests that execute CUDA kernels need g++ as well, and are skipped without it.
# Overridable: PYTHON, VENV, RUN (folder of the demo), ARGS (for pytest or the benchmarks).
# What runs on a GPU makes no environment: it takes PY, and leaves its logs and figures in OUT.

PYTHON ?= python3
VENV ?= .venv
PEER_VENV ?= .venv-peers
RUN ?= runs/demo
ARGS ?=

BIN := $(VENV)/bin
PY ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,python3)
OUT ?= build/gpu-run
SOURCES := capgpu kernels tests bench examples tools docs

.DEFAULT_GOAL := help
.PHONY: help demo serve tour test test-nightly test-minima test-gpu gpu-run lint format docs bench bench-gpu bench-peers cuda-table roofline env clean

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## Train an LSTM on real pictures, caption unseen ones, draw a contact sheet (2 minutes)
	$(BIN)/capgpu train $(RUN) --data emoji --cell lstm --force
	@echo
	@$(BIN)/capgpu caption $(RUN) --split test --count 20
	@echo
	@$(BIN)/capgpu eval $(RUN) --split test --json $(RUN)/test.json --sheet $(RUN)/test.png
	@echo
	@$(BIN)/capgpu eval $(RUN) --split unseen --json $(RUN)/unseen.json --sheet $(RUN)/unseen.png

serve: env ## Open the web page of the demo's run (make demo makes it; RUN=DIR for another, ARGS="--port 0")
	$(BIN)/capgpu serve $(RUN) $(ARGS)

tour: $(VENV)/.installed ## Go from one layer to a trained captioner, with pictures (a minute)
	$(BIN)/python examples/tour.py --out runs/tour

test: env ## Run the tests that need no GPU, one process a core (ARGS="-k solver" for some, in one process)
	$(BIN)/python -m pytest $(or $(ARGS),--numprocesses=auto --dist=loadfile)

test-nightly: env ## Run those that take long as well: all kernels, dtypes and broken copies (half an hour and more)
	CAPGPU_INTERRUPTS=$${CAPGPU_INTERRUPTS:-400} $(BIN)/python -m pytest --nightly $(or $(ARGS),--numprocesses=auto --dist=loadfile)

test-minima: ## Run some tests with the oldest packages that are allowed (ARGS=tests for all, PYTHON=python3.11)
	$(PYTHON) -m tools.minima $(ARGS)

test-gpu: ## Run the tests on the CUDA device of this machine, then NVIDIA's checkers (PY=python3, OUT=DIR)
	$(PY) -m tools.gpu.run --out $(OUT) --stages env,kernels,contract,memcheck,racecheck,synccheck $(ARGS)

gpu-run: ## Check and time everything on the CUDA device of this machine (PY=python3, OUT=DIR; tools/gpu/README.md)
	$(PY) -m tools.gpu.run --out $(OUT) $(ARGS)

lint: env ## Check style, formatting and types
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy -p capgpu

docs: $(VENV)/.installed-docs ## Build the documentation, executing its examples and notebooks (a minute; ARGS=-q)
	$(BIN)/python -m sphinx -b html -j auto -n -W --keep-going -d build/docs/doctrees $(ARGS) docs build/docs/html
	@echo "build/docs/html/index.html"

format: env ## Format all code and sort its imports
	$(BIN)/ruff check --fix-only --quiet $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: env ## Time the library beside the peers that are installed (ARGS=--quick for a look)
	$(BIN)/python -m bench.run $(ARGS)

bench-gpu: ## Time the step beside PyTorch on the CUDA device of this machine (PY=python3, ARGS=--quick)
	$(PY) -m bench.cuda.run $(ARGS)

cuda-table: env ## Compile every CUDA kernel for every architecture (no GPU needed) and write the table
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[cuda-compile]'
	$(BIN)/python -m bench.cuda.compile_table

roofline: env ## Compute the floors of a step on four GPUs, on paper
	$(BIN)/python -m bench.cuda.roofline

bench-peers: ## Install PyTorch and JAX for the benchmarks, apart from everything else
	$(PYTHON) -m venv $(PEER_VENV)
	$(PEER_VENV)/bin/python -m pip install --quiet --extra-index-url https://download.pytorch.org/whl/cpu \
		-r bench/requirements-peers.txt

env: $(VENV)/.installed-dev ## Make the environment of all of these

clean: ## Remove environments, build products and caches, but no runs
	rm -rf $(VENV) $(PEER_VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "capgpu needs Python 3.11 or newer; name one with: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	@echo "Installing into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	@echo "Installing into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,lint]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: pyproject.toml | $(VENV)/bin/python
	@echo "Installing into $(VENV), with what builds the documentation"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@ $(VENV)/.installed
