# Everything runs in .venv, which the first command creates: PyTorch is several GB, so that takes some minutes once.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
# Three on two cores: much of what a worker does is wait for processes that it started.
WORKERS ?= 3
SPREAD = --dist loadfile --no-loadscope-reorder
export PYTHONDONTWRITEBYTECODE = # else each of the many processes of the tests compiles kdyolo anew
# Freed memory is kept for the next tensor, which spares the many small trainings 7 % of their time.
test test-fast: export MALLOC_TRIM_THRESHOLD_ = 4000000000
test test-fast: export MALLOC_MMAP_THRESHOLD_ = 33554432
test test-fast: export MALLOC_TOP_PAD_ = 67108864

.PHONY: demo test test-fast lint format map typecheck docs notebooks wheel release clean

demo: $(STAMP) ## the main job, to the end, on drawn data
	rm -rf demo
	$(BIN)/kdyolo demo --out demo

test: $(STAMP) ## the test suite, for two cores; WORKERS=0 for one process, in which a debugger works
	$(BIN)/python -m pytest -n $(WORKERS) $(SPREAD)

test-fast: $(STAMP) ## what neither trains nor starts processes: an answer in a minute
	HYPOTHESIS_PROFILE=dev $(BIN)/python -m pytest -n 2 $(SPREAD) -m "not integration and not system and not slow"

lint: $(STAMP) ## rules and format, what packages may import, what is declared in pyproject.toml
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/deptry .

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

map: $(STAMP) ## the map in CONTRIBUTING.md, from the docstrings
	$(BIN)/python scripts/print_map.py --write

typecheck: $(STAMP)
	$(BIN)/mypy

docs: $(STAMP)-docs ## the documentation as a site, warnings as errors: build/docs/index.html
	$(BIN)/sphinx-build -W --keep-going -q -b html docs build/docs
	@echo build/docs/index.html

notebooks: $(STAMP)-notebooks ## run the notebooks of the documentation, on drawn data: build/notebooks/
	$(BIN)/python scripts/run_notebooks.py --out build/notebooks

release: $(STAMP)-release ## wheel and sdist, built and checked: dist/
	$(BIN)/python scripts/release.py

wheel: $(STAMP)
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

clean:
	rm -rf $(VENV) build demo dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "kdyolo needs Python 3.10 or newer: make PYTHON=python3.11 …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(STAMP)

$(STAMP)-%: $(STAMP) # what one extra of pyproject.toml names
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	touch $@
