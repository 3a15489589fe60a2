# Needs Python 3.11 or later and make. Everything else is installed into .venv by the targets that need it.

# The Python that .venv is made with.
PYTHON ?= python3
# How many processes run the tests side by side: a number, or auto for one a core.
WORKERS ?= auto

BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
BENCH_INSTALL := .venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --constraint benchmarks/constraints.txt
# One thread a process: the processes share the cores already.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --maxprocesses 8 --dist worksteal

# Without its advertisement.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs

.DEFAULT_GOAL := help
.PHONY: help demo test test-quick test-gpu check format docs docs-serve release-check bench bench-quick bench-resume clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

demo: .venv/.installed-demo ## train a small network on handwritten digits, in under a minute
	@$(BIN)/python examples/digits.py

test: .venv/.installed ## run every test
	@$(PYTEST)

test-quick: .venv/.installed ## run the tests worth running after each save, in under a minute
	@$(PYTEST) -m "not slow"

test-gpu: .venv/.installed ## run the tests that need a GPU, one after the other
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m gpu

check: .venv/.installed ## lint, formatting and types
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/pyright

format: .venv/.installed ## mend lint and formatting where that is safe
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

docs: .venv/.installed-docs ## build the site into site/; open site/index.html
	@$(MKDOCS) build --quiet
	@echo "The site is in site/: open site/index.html."

docs-serve: .venv/.installed-docs ## show the site on http://localhost:8000, and again after each save
	@$(MKDOCS) serve

release-check: .venv/.installed ## build the packages and try them in an empty environment; REHEARSE=1 before the changelog is dated
	@$(BIN)/python scripts/release_check.py $(if $(REHEARSE),--rehearse)

bench: .venv-bench/.installed ## compare the speed with other libraries and write docs/benchmarks.md, in ten minutes
	@.venv-bench/bin/python benchmarks/run.py --write

bench-resume: .venv/.installed .venv-bench/.installed ## stop and resume other libraries, break Ignition, and write docs/reliability.md
	@.venv-bench/bin/python benchmarks/resume.py --write
	@$(PYTEST) --write-faults

bench-quick: .venv/.installed-demo ## compare the speed with the hand-written loop alone, in two minutes
	@$(BIN)/python benchmarks/run.py --no-peers --rounds 3

clean: ## remove all that these commands made, .venv included
	rm -rf .venv .venv-bench runs site build dist src/*.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

.venv/.installed-demo: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or later is needed, this is %d.%d: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	@echo "Installing Ignition into .venv (minutes the first time: PyTorch is large) ..."
	@$(PYTHON) -m venv .venv
	@$(INSTALL) --editable ".[examples]"
	@touch $@

.venv/.installed-docs: .venv/.installed-demo
	@echo "Installing what the site needs into .venv ..."
	@$(INSTALL) --editable ".[docs]"
	@touch $@

.venv/.installed: .venv/.installed-demo
	@echo "Installing the development tools into .venv ..."
	@$(INSTALL) --editable ".[dev]"
	@touch $@

# An environment of their own: what the libraries compared with ask for must not reach the tests. Each is installed by
# itself, and one that cannot be is named in the tables.
.venv-bench/.installed: pyproject.toml benchmarks/requirements.txt benchmarks/constraints.txt
	@echo "Installing the libraries to compare with into .venv-bench (minutes the first time) ..."
	@$(PYTHON) -m venv .venv-bench
	@$(BENCH_INSTALL) --editable ".[examples]"
	@grep -v '^#' benchmarks/requirements.txt | while read -r packages; do \
		$(BENCH_INSTALL) $$packages || echo "$$packages could not be installed"; \
	done
	@touch $@
