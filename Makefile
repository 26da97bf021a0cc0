# Everything sets itself up: `make demo` and `make test` work on a fresh machine with Python 3.10 to 3.13.
#   make demo    see it work: a plain network forgets, DGDMN and DGR remember (no download)
#   make test    format, lint, types and tests            make slow   the tests that train for long, and those of
#                                                                     Lightning under `lightning.pytorch`
#                Both print their slowest tests; the times of all are in build/tests*.xml.
#   make lint    the first three of them                  make docs   HTML pages in docs/_build/html
#   make results docs/results.md from docs/results/*.json, and from what is newer in RUNS (runs) of `avalanche-dgm paper`
#   make gpu     what a GPU is worth here, in eight minutes: benchmarks/gpu.py writes docs/results/gpu.json
#   make dist    wheel and sdist, checked; the README's script from the wheel in a clean environment
#   make oldest  the quick tests with the oldest dependencies that setup.cfg allows, in an environment of their own:
#                make oldest PYTHON=python3.10
#   make format  rewrite files in the project's layout    make clean  remove what was built (not the environment)
# Another Python: make test PYTHON=python3.12

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
# PyTorch's threads spin: several test processes with several threads each are slower than one thread each.
ONE    := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
# Tests start Python often: what it has compiled is kept, whatever the user's environment says.
KEPT   := PYTHONDONTWRITEBYTECODE=
# Each process begins with a part of the tests in their order, which shares what is made once for a file, and takes from
# another's when it is through.
PYTEST := $(ONE) $(KEPT) $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal --durations 25

.DELETE_ON_ERROR:
.PHONY: demo test quick slow lint style types format docs results dist oldest gpu clean

demo: $(VENV)/.run-stamp
	$(BIN)/avalanche-dgm demo

# mypy has one thread: it runs beside the tests.
test: style
	@$(MAKE) --no-print-directory -j 2 types quick

quick: $(VENV)/.dev-stamp
	$(PYTEST) -m "not slow" --junit-xml build/tests.xml $(ARGS)

slow: $(VENV)/.dev-stamp
	$(PYTEST) -m slow --junit-xml build/tests-slow.xml $(ARGS)
	$(if $(ARGS),,AVALANCHE_DGM_LIGHTNING=lightning $(PYTEST) --junit-xml build/tests-lightning.xml tests/lightning)

lint: style types

style: $(VENV)/.dev-stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev-stamp
	$(BIN)/mypy

format: $(VENV)/.dev-stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.dev-stamp
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

results: $(VENV)/.run-stamp
	$(BIN)/python tools/make_results.py $(RUNS)

gpu: $(VENV)/.run-stamp
	@mkdir -p docs/results
	$(BIN)/python benchmarks/gpu.py --device cuda --out docs/results/gpu.json

dist: $(VENV)/.dev-stamp
	rm -rf dist build/clean
	$(PIP) install --quiet build twine
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python -m twine check --strict dist/*
	$(PYTHON) -m venv build/clean
	build/clean/bin/python -m pip install --quiet dist/*.whl
	$(ONE) build/clean/bin/python tools/run_readme.py
	rm -rf build/clean

oldest:
	rm -rf build/oldest
	$(PYTHON) -m venv build/oldest
	build/oldest/bin/python tools/oldest.py | tee build/oldest/constraints.txt
	build/oldest/bin/python -m pip --disable-pip-version-check install --quiet \
	  --constraint build/oldest/constraints.txt --editable '.[test]'
	$(ONE) build/oldest/bin/python -m pytest -n auto --maxprocesses 4 --dist worksteal -m "not slow" $(ARGS)
	rm -rf build/oldest

clean:
	rm -rf build dist docs/_build .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

# The environment. `python -m venv` leaves an existing one as it is, so a half-made one is finished.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))' || { \
	  echo "avalanche-dgm needs Python 3.10 to 3.13, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1)."; \
	  echo "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# A stamp is older than the metadata exactly when the installation may be out of date. torch and torchvision are named
# nowhere else: one pip command resolves both from one index, since builds from different places do not fit together.
$(VENV)/.run-stamp: setup.cfg pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV); the first time this downloads PyTorch and takes some minutes."
	$(PIP) install --quiet --editable .
	@touch $@

$(VENV)/.dev-stamp: setup.cfg pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV) with the test and docs tools; the first time this downloads PyTorch and takes some minutes."
	$(PIP) install --quiet --editable '.[test,docs]'
	@touch $@ $(VENV)/.run-stamp
