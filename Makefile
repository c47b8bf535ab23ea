# `make demo` and `make test` are the two commands; everything is installed into .venv and nowhere else.
# pip reads its usual variables and configuration (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, ..), see the README.

PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
PIP     = $(BIN)/pip --disable-pip-version-check --quiet
TORCH   = $(shell sed -n 's/^\(torch==.*\)/\1/p' constraints.txt)
DEMO    = demo

.PHONY: demo test test-slow lint types unit coverage build clean help

help:  ## what there is
	@sed -n 's/^\([a-z-]*\):.*## /  make \1  \t/p' Makefile

# torch first and alone: an unpinned torch would pull gigabytes of CUDA packages.
$(BIN)/.library: setup.cfg pyproject.toml constraints.txt
	@echo "== installing into $(VENV)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install "$(TORCH)"
	$(PIP) install -c constraints.txt -e .
	touch $@

$(BIN)/.dev: $(BIN)/.library
	@echo "== installing what the tests need"
	$(PIP) install -c constraints.txt -e ".[dev]"
	touch $@

demo: $(BIN)/.library  ## train SRI on images of sprites and write demo/report.html (under 10 minutes)
	$(BIN)/python -m pyro_sri.scripts.demo --out $(DEMO)

test: lint types unit  ## ruff, mypy and pytest

lint: $(BIN)/.dev
	@echo "== ruff"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy does not see packages that an editable install maps, so it reads an installed copy.
types: $(BIN)/.dev
	@echo "== mypy"
	rm -rf build/types
	$(PIP) install --no-deps --no-build-isolation --target build/types .
	cd build/types && ../../$(BIN)/mypy --config-file ../../setup.cfg -p pyro_sri

unit: $(BIN)/.dev
	@echo "== pytest"
	$(BIN)/python -m pytest -m "not slow" -n auto

coverage: $(BIN)/.dev  ## the same tests with line coverage; slower
	$(BIN)/python -m pytest -m "not slow" --cov --cov-report=term

test-slow: $(BIN)/.dev  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

clean:  ## remove what was built (never runs, data sets or reports)
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage
