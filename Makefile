# What a developer needs. Each target makes its own virtual environment first; Python 3.11+ and make are enough.

PYTHON ?= python3
VENV ?= .venv
# Where the larger test data lies, for the tests and benchmarks that can use it; what a clone needs is in tests/data.
ULLAGE_SHARED ?= ../shared
export ULLAGE_SHARED

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help demo test lint format venv clean

help:
	@echo 'make demo    see ullage work: builds, serves, pulls, counts and removes images, with no internet'
	@echo 'make test    run the tests'
	@echo 'make lint    ruff, mypy and the floors'
	@echo 'make format  let ruff lay the code out'
	@echo 'make venv    make $(VENV) with all the tools, and nothing else'
	@echo 'make clean   remove what the others made'

demo: $(VENV)/.installed
	@rm -rf .demo
	@$(BIN)/ullage demo --keep .demo

test: $(VENV)/.developing
	$(BIN)/python -m pytest -n auto

lint: $(VENV)/.developing
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.developing
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

venv: $(VENV)/.developing

clean:
	rm -rf $(VENV) .demo build dist src/*.egg-info *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps are newer than pyproject.toml, or it is installed again.
$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=…")'
	@echo 'installing ullage into $(VENV) …'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --upgrade 'pip>=25.1'
	@$(PIP) install --editable .
	@touch $@

$(VENV)/.developing: $(VENV)/.installed
	@echo 'installing the tools into $(VENV) …'
	@$(PIP) install --group dev
	@touch $@
