# Two commands do everything from a fresh clone: `make serve` and `make test`.
# Both need make and Python 3.11 or later, and set up their own virtual environment.

PYTHON ?= python3
VENV ?= .venv
HOST ?= 127.0.0.1
PORT ?= 8000
PEERS ?= .venv-peers
MINUTES ?= 30
MODEL ?=
CORPUS := training/people
# A CPU build of torch, so that nobody downloads gigabytes of CUDA to run the tests.
TORCH := torch==2.13.0
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: help serve test check peers train bench soak picture clean
help:
	@echo "make serve [PORT=8000] [MODEL=artefacts/en-person]   serve the model at http://$(HOST):$(PORT)"
	@echo "make test                                            linters, types and the whole test suite"
	@echo "make peers                                           more clients of other services for make test"
	@echo "make train                                           train, score and report on the small corpus"
	@echo "make bench                                           load, beside spaCy and Presidio: 12 minutes"
	@echo "make soak [MINUTES=30]                               misuse the service, and 100,000 broken requests"

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# What serving needs, and nothing else: no torch. The kernel is built where there is a C compiler.
$(VENV)/.serving: pyproject.toml $(wildcard model/kernel/*.[ch]) | $(VENV)/bin/python
	$(VENV)/bin/pip install --quiet --editable .
	@touch $@

# A wheel that pip finds on this machine goes before the index of CPU builds.
$(VENV)/.training: pyproject.toml $(VENV)/.serving
	$(VENV)/bin/python -c "import torch" 2>/dev/null \
	  || { ls $(PIP_FIND_LINKS)/torch-*+cpu* >/dev/null 2>&1 && $(VENV)/bin/pip install --quiet $(TORCH); } \
	  || $(VENV)/bin/pip install --quiet $(TORCH) --index-url $(TORCH_CPU_INDEX) \
	  || $(VENV)/bin/pip install --quiet $(TORCH)
	$(VENV)/bin/pip install --quiet --editable ".[training]"
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.training
	$(VENV)/bin/pip install --quiet --editable ".[dev]"
	@touch $@

serve: $(VENV)/.serving
	@NAMETAG_HOST="$${NAMETAG_HOST:-$(HOST)}" NAMETAG_PORT="$(PORT)" \
	  NAMETAG_MODEL="$(or $(MODEL),$${NAMETAG_MODEL:-artefacts/en-person})" exec $(VENV)/bin/python -m service

check: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

test: check
	$(VENV)/bin/python -m pytest

train: $(VENV)/.training
	$(VENV)/bin/python -m training train $(CORPUS)/train.jsonl --out runs/people/model --run runs/people/run --resume
	$(VENV)/bin/python -m training evaluate runs/people/model $(CORPUS)/test.jsonl \
	  --train-files $(CORPUS)/train.jsonl --report runs/people/report.html
	@echo "serve it with: make serve MODEL=runs/people/model"

# The peers have an environment of their own, so that ours stays what everybody installs.
$(PEERS)/.ready: pyproject.toml
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --editable ".[peers]"
	if command -v npm >/dev/null; then \
	  npm install --silent --no-audit --no-fund --prefix $(PEERS) @huggingface/inference@4.13; fi
	@touch $@

# From then on `make test` drives these clients too.
peers: $(PEERS)/.ready

bench: $(VENV)/.training $(PEERS)/.ready
	$(VENV)/bin/python benchmarks/load.py --peer-python $(PEERS)/bin/python --out runs/load

soak: $(VENV)/.training
	$(VENV)/bin/python benchmarks/soak.py --minutes $(MINUTES) --out runs/soak
	$(VENV)/bin/python benchmarks/fuzz.py --out runs/fuzz

# The README's picture of the page, from the page itself. Needs Chromium.
picture: $(VENV)/.dev
	$(VENV)/bin/python -m tests.picture

clean:
	rm -rf $(VENV) $(PEERS) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
