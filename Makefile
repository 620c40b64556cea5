# Every check a machine runs is a target here, and every target sets up what it needs.
# PY picks the Python that makes the environment, VENV its place, ARGS goes to pytest.
PY ?= python3
VENV ?= .venv
ARGS ?=

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Flower neither reports usage, nor asks for updates, nor installs anything by itself.
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION := 1
# Our arrays are small: threads cost more than they give, and pytest has one process a core.
export OMP_NUM_THREADS ?= 1

PY_VENV := $(VENV)/bin/python
RUN := $(VENV)/.installed-run
DEV := $(VENV)/.installed-dev
PIP := $(PY_VENV) -m pip --disable-pip-version-check
METADATA := setup.cfg pyproject.toml constraints.txt
FOLDERS := $(patsubst %/,%,$(dir $(wildcard */__init__.py)))
# A file's tests stay in one process, so what they share is made once.
PARALLEL := -n auto --dist loadfile

.PHONY: help
help:  ## list the targets
	@awk -F '## ' '/^[a-z][a-z-]*:.*## / {name = $$1; sub(/:.*/, "", name); printf "  %-18s %s\n", name, $$2}' Makefile

## ---- environments: made once, made again when what they install changes

# The light one: what a study needs to run. No torch, no tools.
$(RUN): $(METADATA)
	@echo "fedcohort: installing the run-time packages into $(VENV) (a minute or so) ..." >&2
	@test -x $(PY_VENV) || $(PY) -m venv $(VENV)
	@$(PIP) install -qq -c constraints.txt -e .
	@touch $@
	@echo "fedcohort: $(VENV) is ready" >&2

# The full one: torch, tests, tools. It holds the light one.
$(DEV): $(METADATA)
	@echo "fedcohort: installing everything (torch, tests, tools) into $(VENV) (two minutes or so) ..." >&2
	@test -x $(PY_VENV) || $(PY) -m venv $(VENV)
	@$(PIP) install -qq -c constraints.txt -e '.[deep,test,lint]'
	@touch $(RUN) $@
	@echo "fedcohort: $(VENV) is ready" >&2

.PHONY: install dev links
install: $(RUN)  ## make .venv with what a study needs (no torch, no tools)
dev: $(DEV) links  ## make .venv with everything: torch, tests, tools

# For tools that read files, not imports. Folder by folder: one link to the root would hold itself.
links:
	@mkdir -p build/types/fedcohort
	@find build/types/fedcohort -xtype l -delete
	@for f in __init__.py py.typed $(FOLDERS); do ln -sfn "$(CURDIR)/$$f" "build/types/fedcohort/$$f"; done

## ---- a study

.PHONY: demo
demo: $(RUN)  ## compare eight arms on four real hospitals, one command, about as long as a coffee
	@$(VENV)/bin/fedcohort run study=heart-disease repeats=5 privacy.epsilon=3 \
		"arms=[local,pooled,federated,personalised,consensus,dp_sum,dp_each,dp_fedavg]"

.PHONY: picture
picture: $(RUN)  ## remake the README's picture: heart-disease, 20 repeats, epsilon 1, 3 and 8
	@$(VENV)/bin/fedcohort run study=heart-disease repeats=20 "privacy.epsilon=[1,3,8]" \
		out=build/picture overwrite=true
	@cp build/picture/comparison.svg docs/images/heart-disease.svg

## ---- tests; none of them leaves this machine

.PHONY: test test-fast test-all test-attacks test-mutants test-audit test-pages coverage test-deploy
test: $(DEV)  ## every test but the slow ones and those that need a browser
	@$(PY_VENV) -m pytest -q $(PARALLEL) -m "not slow and not browser and not deploy" $(ARGS)

test-fast: $(DEV)  ## unit tests only, stopping at the first failure
	@$(PY_VENV) -m pytest -q -x -m "not slow and not browser and not deploy" tests/unit $(ARGS)

test-all: $(DEV)  ## every test there is, the slow ones and the browser's too
	@$(PY_VENV) -m pytest -q $(PARALLEL) $(ARGS)

test-attacks: $(DEV)  ## the adversaries, each with the weak variant it must break
	@$(PY_VENV) -m pytest -v -m attack $(ARGS)

test-mutants: $(DEV)  ## take each check out in turn: a test must fail (ARGS="--group ledger", "--only N1")
	@$(PY_VENV) tests/mutants/run.py $(ARGS)

test-audit: $(DEV)  ## 4,000 trainings with one patient and without, and two games, against the claimed epsilon
	@FEDCOHORT_AUDIT_RUNS=4000 $(PY_VENV) -m pytest -q -n auto -rP tests/audit $(ARGS)

test-pages: $(DEV)  ## open the reports in the system's Chromium (chromium, chromedriver)
	@$(PY_VENV) -m pytest -q -m browser $(ARGS)

test-deploy: $(DEV)  ## a coordinator and three sites over TLS on loopback, beside Flower's own way (20 minutes)
	@$(PY_VENV) -m pytest -q -s -m deploy tests/integration/deployed $(ARGS)

coverage: $(DEV)  ## the tests of `make test` with branch coverage
	@$(PY_VENV) -m pytest -q $(PARALLEL) -m "not slow and not browser and not deploy" --cov --cov-report=term $(ARGS)

## ---- habits

.PHONY: lint format types layers docs-check hooks
lint: $(DEV)  ## ruff: rules and format
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .

format: $(DEV)  ## let ruff write what it can
	@$(VENV)/bin/ruff check --fix-only .
	@$(VENV)/bin/ruff format .

types: $(DEV) links  ## mypy --strict on the package, then on tests and benchmarks
	@$(PY_VENV) -m mypy
	@$(PY_VENV) -m mypy tests $(if $(wildcard benchmarks/*.py),benchmarks)

layers: $(DEV)  ## import-linter: who may import whom
	@$(VENV)/bin/lint-imports --config setup.cfg --no-cache --no-logo

docs-check: $(DEV)  ## docstring examples run, README's commands exist
	@$(PY_VENV) -m pytest -q tests/unit/test_doctests.py tests/unit/test_packaging.py $(ARGS)

hooks: $(DEV)  ## install the commit hooks of .pre-commit-config.yaml
	@$(VENV)/bin/pre-commit install

## ---- numbers

.PHONY: bench-accuracy bench-federation bench-secagg bench-ledger
bench-accuracy: $(DEV)  ## accuracy of each arm on the shipped studies, against peers
	@$(PY_VENV) benchmarks/accuracy.py

.PHONY: bench-development
bench-development: $(DEV)  ## which private method is each family's default, on development data
	@$(PY_VENV) benchmarks/development.py

bench-federation: $(DEV)  ## time and bytes of a round, by sites and by vector length
	@$(PY_VENV) benchmarks/federation.py

bench-secagg: $(DEV)  ## CPU, bytes and memory of masked sums, beside Flower's SecAgg+
	@$(PY_VENV) benchmarks/secagg.py

bench-ledger: $(DEV)  ## time of reserving, charging and reading a hospital's ledger
	@$(PY_VENV) benchmarks/ledger.py

## ---- releases

.PHONY: package constraints clean
package: $(DEV)  ## build the wheel and the source archive into dist/
	@rm -rf dist build/lib build/bdist.*
	@$(PY_VENV) -m build --outdir dist .
	@ls -l dist

# The header (every comment line before the first pin) stays; the pins are made new.
constraints:  ## resolve setup.cfg anew and write constraints.txt
	@echo "fedcohort: resolving every extra in a fresh environment ..." >&2
	@rm -rf build/constraints build/lib && mkdir -p build/constraints
	@$(PY) -m venv build/constraints/venv
	@build/constraints/venv/bin/python -m pip install -qq '.[deep,test,lint]'
	@sed -n '/^#/!q;p' constraints.txt > build/constraints/constraints.txt
	@build/constraints/venv/bin/python -m pip list --format=freeze --exclude pip --exclude fedcohort \
		| sed 's/+cpu$$//' | LC_ALL=C sort -f >> build/constraints/constraints.txt
	@mv build/constraints/constraints.txt constraints.txt
	@rm -rf build/constraints build/lib build/bdist.*

clean:  ## remove what was made: environment, builds, caches (never runs/)
	@rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage .coverage.*
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
