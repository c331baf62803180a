# `make check` is what CI runs. Every target sets up what it needs.

PYTHON ?= $(shell python3.11 --version >/dev/null 2>&1 && echo python3.11 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup run test check coverage simulate soak docs bench clean

help:
	@echo 'make setup   install into $(VENV)'
	@echo 'make run     a demonstration: daemon, receiver, sample events'
	@echo 'make test    the tests'
	@echo 'make check   lint, format, types, tests: what CI runs'
	@echo 'make coverage  which lines and branches the tests reach; fails below 95 %'
	@echo 'make simulate  simulated days of the engine, 500 seeds; SEED=n for one, and what happened in it'
	@echo 'make soak    what CI has a sample of, in full: 1,000 kills, 100,000 power cuts, 10,000,000 rows, 10,000 seeds,'
	@echo '             an hour of load'
	@echo 'make docs    write the documents that derive from the code'
	@echo 'make bench   the benchmarks: what a delivery costs on this machine'
	@echo 'make clean   remove what the tools left'

setup: $(STAMP)

# A virtual environment that no longer starts (its Python moved, or came without pip) is made anew.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'hookengine needs Python 3.11 or newer: make PYTHON=/path/to/python3.11' >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'  # the first with --group
	$(BIN)/python -m pip install --quiet --editable . --group dev
	@touch $@

run: setup
	$(BIN)/hookengine demo

# Side by side, but for those that measure: these want the machine for themselves.
test: setup
	$(BIN)/pytest -n 4 --dist worksteal -m 'not alone'
	$(BIN)/pytest -m alone

check: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(MAKE) test

# By itself, because what is counted takes half as long again. Tests that drive whole processes, whole days or whole documents
# cover nothing that has no test of its own.
APART := tests/acceptance tests/simulation $(addprefix tests/test_,server_hostile.py dispatcher_histories.py canaries.py \
  documents.py example_pages.py examples.py file_faults.py)

coverage: setup
	$(BIN)/pytest -n 4 --dist worksteal -m 'not alone' $(APART:%=--ignore %) --cov --cov-branch

simulate: setup
	$(BIN)/pytest -k what_is_promised tests/simulation

soak: setup
	KILLS=1000 $(BIN)/pytest -s tests/acceptance/test_crash.py -k nothing_accepted_is_lost
	CUTS=100000 $(BIN)/pytest tests/acceptance/test_power_cuts.py -k test_power_cut
	BACKLOG=10000000 $(BIN)/pytest -s -o faulthandler_timeout=0 tests/acceptance/test_backlog.py
	HISTORY=10000000 $(BIN)/pytest -s -o faulthandler_timeout=0 tests/acceptance/test_history.py
	RECOVERING=50000 $(BIN)/pytest -s -o faulthandler_timeout=0 tests/acceptance/test_recovery.py
	env -u SEED SEEDS=10000 $(BIN)/pytest -k what_is_promised tests/simulation
	SOAK=3600 $(BIN)/pytest -s tests/acceptance/test_soak.py

docs: setup
	$(BIN)/python docs/generate.py

bench: setup
	$(BIN)/hookengine bench

clean:
	rm -rf build dist *.egg-info .coverage .coverage.* htmlcov .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find hookengine tests -name __pycache__ -type d -prune -exec rm -rf {} +
