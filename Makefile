# Every target makes the environment that it needs: .venv, from requirements.lock.
# Another interpreter: make test PYTHON=python3.13
PYTHON ?= python3

BIN := .venv/bin
# The stamp carries the interpreter's version, so that changing PYTHON makes a new environment.
STAMP := .venv/made-with-$(shell $(PYTHON) -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')
PACKAGES := $(patsubst %/__init__.py,%,$(wildcard $(addsuffix /__init__.py,mm reference candidate fuzz live zoo)))

# Run a command; print what it said only if it failed.
quietly = out=$$($(1) 2>&1) || { printf '%s\n' "$$out"; status=1; }

.PHONY: help venv smoke test lint compiled bench live lock clean

help:
	@echo "make smoke | test | lint | compiled | bench | live | lock | clean   (see CONTRIBUTING.md)"

venv: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' || \
	    { echo "Python 3.11 to 3.14 is needed: name one with make PYTHON=python3.12."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo "Python's venv module is missing: on Debian and Ubuntu, install the package python3-venv."; exit 1; }
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/pip -qq --disable-pip-version-check install --require-hashes --only-binary :all: -r requirements.lock
	@$(BIN)/pip -qq --disable-pip-version-check install --no-deps --no-build-isolation --editable .
	@touch $@

# Equal programs each time: make smoke SMOKE="--programs 2500 --seed 7".
smoke: venv
	@$(BIN)/vmemmap-fuzz smoke $(SMOKE)

test: venv
	@$(BIN)/pytest

# All four run even if the first fails, so that one round shows everything.
lint: venv
	@status=0; \
	$(call quietly,$(BIN)/ruff check .); \
	$(call quietly,$(BIN)/ruff format --check .); \
	$(call quietly,$(BIN)/mypy $(PACKAGES)); \
	$(call quietly,$(BIN)/lint-imports); \
	exit $$status

# Needs a C compiler and Python's headers. Campaigns use what it makes, until a source changes.
compiled: venv
	@$(BIN)/python -m fuzz.compiled.build

bench: venv
	@for bench in $(wildcard bench/*.py); do $(BIN)/python $$bench || exit 1; done

# Needs apt-get and a C compiler; fetches a kernel, and an emulator if there is none. More: make live LIVE="--programs 1000 --seed 7".
LIVE ?= --programs 40
LIVE_SEEDS ?= corpus/seeds
live: venv
	@$(BIN)/vmemmap-fuzz live run $(LIVE_SEEDS)
	@$(BIN)/vmemmap-fuzz live conform $(LIVE)
	@VMEMMAP_LIVE=1 $(BIN)/pytest -n 0 -q tests/live/test_guest.py

# Renews every pin for all supported Python versions at once. Commit the result.
lock:
	@$(PYTHON) -m venv --clear .venv-lock
	@.venv-lock/bin/pip -qq --disable-pip-version-check install uv
	@.venv-lock/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --custom-compile-command "make lock" \
	    --group build --group dev --output-file requirements.lock pyproject.toml
	@rm -rf .venv-lock

clean:
	@rm -rf .venv .venv-lock build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage*
	@find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
