# Every target creates what it needs; PYTHON may name another interpreter of version 3.11 or later.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PROFILE ?= ci

.PHONY: verify test lint format deep mutants bench picture clean

verify: $(VENV)/.ready
	$(BIN)/gradcheck verify $(ARGS)

test: $(VENV)/.ready lint
	$(BIN)/python -m pytest -n auto --hypothesis-profile=$(PROFILE) $(ARGS)

deep: $(VENV)/.ready
	$(BIN)/python -m pytest -n auto --hypothesis-profile=deep -k derived_gradient --junitxml=deep.xml \
		tests/test_equivalence.py $(ARGS)

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

mutants: $(VENV)/.ready
	$(BIN)/python -m tests.oracle.table $(ARGS)

bench: $(VENV)/.ready
	$(BIN)/python benchmarks/startup.py

picture: $(VENV)/.ready
	$(BIN)/python -m gradcheck.picture docs/assets/directions.png

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[models,dev]"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .hypothesis .pytest_cache .ruff_cache .mypy_cache
