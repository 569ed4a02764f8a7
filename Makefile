# make demo, make test: each from a bare clone. The first run builds .venv (2 to 5 minutes, about 6 GB).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FREE_GB := 8

.PHONY: demo test test-all lint bench docs clean
.DELETE_ON_ERROR:

demo: $(VENV)/done
	@rm -rf runs/demo
	$(BIN)/pyrovae train runs/demo
	$(BIN)/pyrovae evaluate runs/demo

test: $(VENV)/done
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal -m "not slow"

test-all: $(VENV)/done
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

bench: $(VENV)/done
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/epoch.py
	$(BIN)/python benchmarks/evidence_throughput.py
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/likelihoods.py
	$(BIN)/python benchmarks/shares.py
	$(BIN)/python benchmarks/distributed.py

docs: $(VENV)/done
	@$(BIN)/python -c 'import furo, myst_nb, zuko, importlib; importlib.import_module("sphinx-mathjax-offline")' 2>/dev/null || \
	  $(BIN)/python -m pip install -e ".[docs]"
	$(BIN)/python -m sphinx -W --keep-going -n docs docs/_build/html

lint: $(VENV)/done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/done: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "pyrovae needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1): install one and call make PYTHON=/path/to/it"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "$(PYTHON) lacks venv or pip: on Debian and Ubuntu, apt install python3-venv"; exit 1; }
	@test -d $(VENV)/lib || test $$(df -Pk . | awk 'NR == 2 {print int($$4 / 1048576)}') -ge $(FREE_GB) || \
	  { echo "pyrovae needs $(FREE_GB) GB of free disk for PyTorch, and $$PWD has $$(df -Ph . | awk 'NR == 2 {print $$4}'): free some, or clone elsewhere"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -e ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) docs/_build build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
