# Everyday commands. `make` alone lists them.

VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --no-input install --quiet
CONSTRAINTS := requirements/constraints.txt
NATIVE_SOURCES := CMakeLists.txt $(wildcard src/steelyard/kernels/csrc/* src/steelyard/kernels/csrc/*/*)

PROMPT ?= Give me three facts about steelyard balances.
WORKERS ?= 2
ARGS ?=
BENCH ?= *

# The prompt reaches the shell through the environment and `value` keeps make's hands off it, so that quotes and dollar
# signs arrive as they were typed.
unexport PROMPT
export RUN_PROMPT := $(value PROMPT)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup setup-peer run chat test check fix bench clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.installed $(VENV)/.default-model ## install into .venv, with the default model (again: make -B setup)

setup-peer: setup $(VENV)/.peer-models ## install the second real model, for the `peer` tests

run: setup ## answer one prompt: make run PROMPT="…" ARGS="…"
	@$(VENV)/bin/steelyard run $(ARGS) -- "$$RUN_PROMPT"

chat: setup ## talk to the default model
	@$(VENV)/bin/steelyard chat $(ARGS)

test: setup ## run the tests: make test ARGS="-k norm" WORKERS=0
	@$(VENV)/bin/python -m pytest -q -n $(WORKERS) --dist loadfile $(ARGS)

check: setup ## lint, formatting, types
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/mypy

fix: setup ## repair what the linter and the formatter can
	@$(VENV)/bin/ruff check --fix
	@$(VENV)/bin/ruff format

bench: setup ## run the benchmarks: make bench BENCH=rms_norm
	@for file in benchmarks/bench_$(BENCH).py; do echo "== $$file"; $(VENV)/bin/python "$$file" || exit; done

clean: ## remove what was built and cached, but not .venv
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
	find src -name '*.so' -delete

$(VENV)/bin/python:
	@scripts/make_venv.sh $(VENV)

# First and by itself, so that nothing else's wish for torch is answered with another build.
$(VENV)/.torch: $(CONSTRAINTS) | $(VENV)/bin/python
	@echo "installing torch"
	@$(PIP) -c $(CONSTRAINTS) torch
	@touch $@

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS) $(NATIVE_SOURCES) $(VENV)/.torch
	@echo "installing steelyard"
	@$(PIP) -c $(CONSTRAINTS) -e '.[test,dev]'
	@touch $@

$(VENV)/.%: requirements/%.txt | $(VENV)/bin/python
	@echo "installing $*"
	@$(PIP) --no-deps -r $<
	@touch $@
