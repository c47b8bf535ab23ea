# `make demo` and `make test` are the two commands; everything is installed into .venv and nowhere else.
# pip reads its usual variables and configuration (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, ..), see the README.

PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
PIP     = $(BIN)/pip --disable-pip-version-check --quiet
TORCH   = $(shell sed -n 's/^\(torch==.*\)/\1/p' constraints.txt)
DEMO    = demo

# For make gpu, a Python with the library and a PyTorch that can use the GPU.
GPU_PYTHON ?= $(BIN)/python

# What `make versions` tries, by the names on the PATH; the first also has the oldest and the newest dependencies.
PYTHONS  ?= python3.11 python3.12 python3.13
VERSIONS  = $(PYTHONS:%=versions-%) versions-oldest versions-newest

.PHONY: demo test test-slow lint types unit coverage docs dist bench gpu faults fuzz soak versions $(VERSIONS) audit clean help

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

demo: $(BIN)/.library  ## train SRI on images of flat towers and write demo/report.html (under 10 minutes)
	$(BIN)/python -m pyro_sri.scripts.demo --out $(DEMO)

test: lint  ## ruff, mypy and pytest
	$(MAKE) -j2 types unit

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

docs: $(BIN)/.library  ## run the tutorials, render docs/ and the API into build/site
	$(PIP) install -c constraints.txt -e ".[docs]"
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/site
	@echo "open build/site/index.html"

dist:  ## build wheel and sdist into dist/, install the wheel into an empty environment and draw samples with it
	rm -rf dist build/lib build/packaging build/empty
	$(PYTHON) -m venv build/packaging
	build/packaging/bin/pip --disable-pip-version-check --quiet install build
	build/packaging/bin/python -m build --outdir dist .
	$(PYTHON) -m venv build/empty
	build/empty/bin/pip --disable-pip-version-check --quiet install "$(TORCH)"
	build/empty/bin/pip --disable-pip-version-check --quiet install -c constraints.txt dist/*.whl
	cd build/empty && bin/pyro-sri sample sri-quick --num 4 --out samples.png

bench: $(BIN)/.library  ## the standard benchmarks, written into docs/performance.md (most of an hour, 20 GiB)
	$(BIN)/python -m pyro_sri.scripts.standard_bench

gpu: $(if $(filter $(BIN)/python,$(GPU_PYTHON)),$(BIN)/.library)  ## on a machine with a GPU: is it right, how fast, does it learn; written into docs/performance.md (half an hour)
	$(GPU_PYTHON) tools/gpu.py

faults: $(BIN)/.dev  ## kill commands at every moment of writing and at random ones, resume, compare (an hour)
	$(BIN)/python -m pytest tests/faults -s

fuzz: $(BIN)/.dev  ## thousands of damaged files (an hour)
	$(BIN)/python -m pytest tests/fuzz -s

soak: $(BIN)/.dev  ## thousands of steps of every system (hours)
	$(BIN)/python -m pytest tests/soaks -s

versions: $(VERSIONS)  ## the fast tests with each Python at hand, with the oldest and with the newest dependencies

# Each in a fresh environment under build/versions, on a copy of the package, installed as a user installs it.
versions-%: BIN = build/versions/$*/bin
versions-%: INTERPRETER = $*
versions-%: CONSTRAINTS = -c constraints.txt
versions-oldest: CONSTRAINTS = -c constraints-oldest.txt
versions-oldest: WARNINGS = -W default  # old libraries warn of what newer ones below them will drop
versions-oldest: export PYTHONWARNINGS = ignore
versions-newest: CONSTRAINTS =
versions-oldest versions-newest: INTERPRETER = $(firstword $(PYTHONS))

$(VERSIONS): versions-%:
	@$(INTERPRETER) -c "" 2>/dev/null || { echo "== $@: no $(INTERPRETER) here, skipped"; exit 0; }; set -ex; \
	$(INTERPRETER) -m venv --clear build/versions/$*; rm -rf build/lib; \
	$(PIP) install "$(TORCH)"; \
	$(PIP) install $(CONSTRAINTS) ".[dev]"; \
	$(PIP) check; \
	cd build/versions; $*/bin/pytest ../../tests -m "not slow" -n auto $(WARNINGS)

audit: $(BIN)/.dev  ## whether dependencies are pinned, permissive and free of known vulnerabilities
	$(PIP) install -c constraints.txt -e ".[docs]"
	$(PIP) check
	$(BIN)/python tools/audit.py
	@test -x build/audit/bin/pip-audit || { $(PYTHON) -m venv build/audit && build/audit/bin/pip -q install pip-audit; }
	@build/audit/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt >build/audit/report 2>&1 \
	&& echo "no known vulnerability" || { grep -q "^Found" build/audit/report && cat build/audit/report \
	|| echo "not audited for known vulnerabilities: their list cannot be reached (see build/audit/report)"; exit 1; }

clean:  ## remove what was built (never runs, data sets or reports)
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage
