# Everything from a fresh clone with only Python 3.10 or newer:
#   make demo     teach a small vision transformer to find defective solar cells (some minutes, no network after install)
#   make test     the tests, but for the slow ones (pytest -m slow)
#   make check    lint, format and types
# Another Python: make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
LOCK := requirements/lock.txt
CARRIERS := requirements/carriers.txt
# What a release of torch, transformers, peft or timm can break: blocks and their calls, methods on them, generation.
SEAMS := tests/anatomy tests/contract tests/methods tests/models tests/reference

# Some machines forbid Python to keep what it compiled: then each of the processes of the tests compiles torch and transformers anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install lock check test test-lowest test-newest test-peft docs dist demo clean

help:
	@echo "make install      create $(VENV) with Gossamer and exactly the packages of $(LOCK) and $(CARRIERS)"
	@echo "make check        ruff (lint and format) and pyright"
	@echo "make test         pytest"
	@echo "make test-lowest  the tests of what other packages can break, with the lowest versions that pyproject.toml allows"
	@echo "make test-newest  the same with the newest that there are, whatever pyproject.toml allows"
	@echo "make test-peft    peft's own tests of what its methods have in common, run on ours"
	@echo "make lock         write $(LOCK) from pyproject.toml; keeps what it can, UPGRADE=--upgrade takes the newest"
	@echo "make docs         the documentation site, in build/site"
	@echo "make dist         wheel and source archive in dist, and their tests"
	@echo "make demo         gossamer demo"
	@echo "make clean        remove the environments and what the tools left behind"

# Two `make` at once take turns, and the second then finds the stamp of the first.
install:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 10) and "Gossamer needs Python 3.10 or newer; $(PYTHON) is %d.%d. Choose another: make PYTHON=..." % v[:2])'
	@$(PYTHON) requirements/alone.py Makefile $(MAKE) --no-print-directory $(INSTALLED)

# The stamp comes last and goes first: an install that was cut short leaves none, and the next begins with an empty folder.
$(INSTALLED): pyproject.toml $(LOCK) $(CARRIERS)
	test -e $@ || $(PYTHON) -m venv --clear $(VENV)
	rm -f $@
	awk '/^uv==/,!/\\$$/' $(LOCK) > $(VENV)/uv.txt
	$(BIN)/python -m pip install --quiet --only-binary :all: --require-hashes -r $(VENV)/uv.txt
	$(BIN)/uv pip sync --python $(BIN)/python --require-hashes $(LOCK) $(CARRIERS)
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --no-build-isolation -e .
	touch $@

lock: install
	$(BIN)/uv pip compile $(UPGRADE) --universal --python-version 3.10 --no-python-downloads --only-binary :all: \
		--generate-hashes --annotation-style line --custom-compile-command "make lock" \
		--extra dev pyproject.toml --output-file $(LOCK) > /dev/null

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

test: install
	$(BIN)/python -m pytest -n 2 --dist worksteal

# An environment of its own, of what pyproject.toml asks for today: as low as it allows, or as high as there is, its upper bounds
# cut off; then the one warning that tells of them is no error.
test-lowest: RESOLUTION = --resolution lowest-direct
test-newest: CUT = s/,<[^",]*//
test-newest: ALLOWED = -W "ignore:Gossamer was tested with"
test-lowest test-newest: test-%: install
	$(BIN)/uv venv --clear --python $(BIN)/python $(VENV)-$*
	sed '$(CUT)' pyproject.toml > $(VENV)-$*/pyproject.toml
	$(BIN)/uv pip compile --quiet $(RESOLUTION) --python $(VENV)-$*/bin/python --extra dev $(VENV)-$*/pyproject.toml \
		--output-file $(VENV)-$*/requirements.txt
	$(BIN)/uv pip sync --python $(VENV)-$*/bin/python $(VENV)-$*/requirements.txt $(CARRIERS)
	$(BIN)/uv pip install --python $(VENV)-$*/bin/python --no-deps --no-build-isolation -e .
	$(VENV)-$*/bin/python -c "from gossamer.cost.machine import versions; print(versions())"
	$(VENV)-$*/bin/python -m pytest -n 2 --dist worksteal $(ALLOWED) $(SEAMS)

# Its wheel brings no tests, its source archive does: the one of the locked version, by its hash.
test-peft: install
	rm -rf $(VENV)-peft
	mkdir $(VENV)-peft
	awk '/^peft==/,!/\\$$/' $(LOCK) > $(VENV)-peft/peft.txt
	$(BIN)/python -m pip download --quiet --no-deps --no-binary :all: --require-hashes -r $(VENV)-peft/peft.txt -d $(VENV)-peft
	tar xzf $(VENV)-peft/peft-*.tar.gz -C $(VENV)-peft
	PEFT_TESTS=$$(echo $(VENV)-peft/peft-*/tests) $(BIN)/python -m pytest -n 2 -m slow tests/test_peft_matrix.py

# The notice is of the successor of mkdocs; what is wrong with a page ends the build.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

dist: install
	rm -rf dist
	$(BIN)/uv build --no-build-isolation --python $(BIN)/python
	$(BIN)/python -m pytest -m 'slow or not slow' tests/test_dist.py

demo: install
	$(BIN)/gossamer demo

clean:
	rm -rf $(VENV) $(VENV)-lowest $(VENV)-newest $(VENV)-peft build dist src/*.egg-info .pytest_cache .ruff_cache
