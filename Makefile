# make demo: install into .venv and see what the model does.   make test: install and run the tests.
#
# The stamp files remember what is installed, so that a second call starts at once. PYTHON picks the interpreter
# (3.11 or later), VENV another folder, MODEL another checkpoint than the one that ships. docs/install.md has installing without make.

PYTHON ?= python3
VENV ?= .venv
MODEL ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
KERNELS := hatch_build.py $(wildcard src/dgemma/kernels/c/*.[ch])
EXTRA := $(PYTHON) -c "import sys, tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies'][sys.argv[1]])"
WITH_MODEL := $(if $(MODEL),--model $(MODEL))

.PHONY: help install demo test test-all test-clients check docs check-install lock sbom clean

help:
	@sed -n '1p' Makefile | cut -c 3-

demo: install
	$(BIN)/dgemma demo $(WITH_MODEL)
	@echo
	@echo "dgemma is installed as $(BIN)/dgemma; to type dgemma alone:  . $(BIN)/activate"
	@echo "next:  $(BIN)/dgemma serve $(WITH_MODEL)"

# One thread: the models of the tests are tiny, and threads that wait for each other only cost on a busy machine.
test: export OMP_NUM_THREADS ?= 1
test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 2 -rs -m 'not slow'

# Every test with the oldest and with the newest versions, in .venv-oldest and .venv-newest; writes tests/range/results.md.
test-all:
	$(PYTHON) scripts/test_range.py

# Other people's clients against a running service, in environments of their own (.venv-clients); NAMES picks some.
test-clients: $(VENV)/.installed-test
	DGEMMA=$(BIN)/dgemma PYTHON=$(BIN)/python scripts/clients.sh $(NAMES)

# Lint, layout, types and the figures of style; the tests hold the layers of the packages.
check: $(VENV)/.installed-check
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .
	$(BIN)/python scripts/style.py
	$(BIN)/mypy --no-error-summary

# README, docs/ and the other pages as a site: dist/site/index.html. Broken links and anchors are errors.
# It needs mkdocs alone, so it has an environment of its own, without torch.
docs: .venv-docs/.installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet --clean
	@echo "the site: dist/site/index.html"

.venv-docs/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check $$($(EXTRA) docs)
	@touch $@

# Whether the plain package index has what Linux, macOS and Windows need; installs nothing.
check-install:
	PYTHON=$(PYTHON) scripts/check_install.sh

# What a service needs, every file of it by its hash: requirements.txt. UPGRADE=--upgrade takes the newest versions.
lock:
	PYTHON=$(PYTHON) scripts/lock.sh $(UPGRADE)

# What is installed in $(VENV), as a CycloneDX bill of materials: dist/sbom.cdx.json.
sbom: install
	PYTHON=$(PYTHON) VENV=$(VENV) scripts/sbom.sh

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt $(KERNELS) | $(BIN)/python
	@echo "installing dgemma into $(VENV) (on Linux torch is a download of 2.8 GB, with CUDA; once)"
	$(PIP) -e '.[serve]'
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt $(KERNELS) | $(BIN)/python
	@echo "installing dgemma and what its tests need into $(VENV)"
	$(PIP) -e '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-check: $(VENV)/.installed-test
	$(PIP) -e '.[check]'
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "dgemma needs Python 3.11 or later; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) .venv-clients .venv-docs .venv-oldest .venv-newest .venv-tools .pytest_cache .hypothesis dist
	find src tests scripts examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
