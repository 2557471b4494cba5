# Every target creates what it needs; PYTHON may name another interpreter of version 3.11 or later.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PROFILE ?= ci
SOME ?= 1
SHARES ?= 1
PYTEST = $(BIN)/python -m pytest -n auto --dist worksteal --hypothesis-profile=$(PROFILE)

.PHONY: verify montecarlo test kernels whole lint format deep mutants ranks adversary bench cuda picture notebooks notebooks-check docs docs-serve docs-test versions clean

verify: $(VENV)/.ready
	$(BIN)/gradcheck verify $(ARGS)

test: $(VENV)/.ready lint
	$(PYTEST) $(ARGS)
	$(if $(ARGS),,$(MAKE) kernels SHARES=2)

# As other processors would round: the other kernels of MKL and of torch, and two threads. Of each test that computes with
# tensors one parameter set, another one in each setting; `make kernels SOME=2` runs two of each, and so on. `make test`
# runs one half of the tests in one setting and the other half in the other.
kernels: $(VENV)/.ready
	MKL_CBWR=COMPATIBLE GRADCHECK_THREADS=2 $(PYTEST) -m numerical --some $(SOME) --some-from 0 --share 0/$(SHARES) $(ARGS)
	MKL_CBWR=AVX2 ATEN_CPU_CAPABILITY=default $(PYTEST) -m numerical --some $(SOME) --some-from 1 --share 1/$(SHARES) $(ARGS)

# Every parameter set of the tests of which `make test` runs every second to fifth.
whole: $(VENV)/.ready
	$(PYTEST) --whole -m thin $(ARGS)

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

montecarlo: $(VENV)/.ready
	$(BIN)/python -m gradcheck.theorems.montecarlo $(ARGS)

mutants: $(VENV)/.ready
	$(BIN)/python -m tests.oracle.table $(ARGS)

ranks: $(VENV)/.ready
	$(BIN)/python -m tests.ranks.table $(ARGS)

adversary: $(VENV)/.ready
	$(BIN)/python -m tests.adversary.table $(ARGS)

bench: $(VENV)/.ready
	$(BIN)/python -m benchmarks.report $(ARGS)

# With the torch that is there: a machine with a GPU is seldom one's own.
cuda:
	$(PYTHON) -m benchmarks.cuda $(ARGS)

picture: $(VENV)/.ready
	$(BIN)/python -m gradcheck.plots.directions docs/assets/directions.png
	$(BIN)/python -m gradcheck.plots.averages docs/assets/averages.png
	$(BIN)/python -m gradcheck.plots.interactive docs/assets/pulls.html

notebooks: $(VENV)/.ready
	$(BIN)/python notebooks/build.py $(ARGS)

notebooks-check: $(VENV)/.ready
	$(BIN)/python notebooks/build.py --check $(ARGS)

docs: $(VENV)/.ready-docs docs/node_modules/.ready
	$(BIN)/python -m sphinx --builder html --nitpicky --fail-on-warning --keep-going --jobs auto docs docs/_build/html $(ARGS)

docs-serve: docs
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory docs/_build/html 8000

docs-test: docs
	GRADCHECK_DOCS_HTML=docs/_build/html $(BIN)/python -m pytest -n auto tests/docs $(ARGS)

docs/node_modules/.ready: docs/package.json
	npm install --prefix docs --no-package-lock --no-audit --no-fund --silent
	touch $@

$(VENV)/.ready-docs: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	touch $@

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,notebooks,jax]"
	touch $@

# The tests on other versions than constraints.txt's: `make versions TORCH=2.6.* PYTHON=python3.12`.
versions:
	$(PYTHON) -m venv .venv-versions
	.venv-versions/bin/python -m pip install --quiet "torch==$(TORCH)" --editable ".[dev]"
	.venv-versions/bin/python -m pytest -n auto --ignore=tests/docs --ignore=tests/notebooks $(ARGS)

clean:
	rm -rf $(VENV) .venv-versions build docs/_build docs/generated docs/node_modules *.egg-info .hypothesis .pytest_cache .ruff_cache .mypy_cache
