# make quickstart   install into .venv, then train a small detector on a data set that it makes itself
# make test         install for development into .venv, then lint, types and tests
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml setup.py $(shell find codetr kernels zoo -name '*.py' -o -name '*.yaml')

# A development installation serves the quickstart too; a plain one must not replace it.
INSTALLED := $(if $(wildcard $(VENV)/.installed-test),$(VENV)/.installed-test,$(VENV)/.installed)

.PHONY: quickstart test lint format clean

quickstart: $(INSTALLED)
	$(BIN)/codetr train zoo/quickstart.yaml

test: lint
	$(BIN)/pytest
	TRITON_INTERPRET=1 $(BIN)/pytest -m "kernel or literal" tests/kernels

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install .
	touch $@

$(VENV)/.installed-test: $(BIN)/python pyproject.toml setup.py
	$(BIN)/python -m pip install -e '.[test]'
	touch $@
