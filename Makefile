# Two commands: `make fault-matrix` runs real experiments from a fresh clone, `make test` passes the tests.
#   PYTHON=python3       the interpreter the environment is made from (3.11 or later)
#   VENV=.venv           where the environment goes
#   RCAEVAL=.venv-rcaeval  where RCAEval's own environment goes; elsewhere, name it in FAULTLINE_RCAEVAL, too
#   TORCH_INDEX=URL      a further package index to take torch from (CPU or CUDA wheels)
#   KEEP=1               leave server and worker up after `make fault-matrix`
PYTHON ?= python3
VENV ?= .venv
RCAEVAL ?= $(VENV)-rcaeval
TORCH_INDEX ?=
KEEP ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RCAEVAL_STAMP := $(RCAEVAL)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
INDEX := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.DEFAULT_GOAL := help
.PHONY: help install rcaeval fault-matrix test test-all test-quick check fault-page format lock clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

install: $(STAMP)  ## make the environment (the others do it by themselves)

# The stamp is written last: interrupted anywhere, the next call goes on where it matters.
$(STAMP): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "faultline: there is no $(PYTHON); install Python 3.11 or later, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "faultline: $$($(PYTHON) --version) is too old; 3.11 or later is needed: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "faultline: $(PYTHON) cannot make environments; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { echo "making the environment in $(VENV)"; $(PYTHON) -m venv --clear $(VENV); }
	@echo "installing locked versions (about 2 GB; a minute or two)"
	@$(PIP) install --quiet $(INDEX) -r requirements.lock
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

rcaeval: $(RCAEVAL_STAMP)  ## make the environment of RCAEval's methods (600 MB), which become diagnosers

# An environment of its own: it needs numpy below 2 (docs/decisions/0029). --no-deps: the lock is all of it.
$(RCAEVAL_STAMP): requirements-rcaeval.lock | $(STAMP)
	@echo "making RCAEval's environment in $(RCAEVAL) (about 600 MB)"
	@$(PYTHON) -m venv --clear $(RCAEVAL)
	@$(RCAEVAL)/bin/python -m pip --disable-pip-version-check --no-input install --quiet --no-deps -r requirements-rcaeval.lock
	@touch $@

fault-matrix: $(STAMP)  ## run the smoke matrix: baselines and faults, scored blind
	@$(BIN)/faultline matrix --profile smoke $(if $(KEEP),--keep)

test: $(STAMP) $(RCAEVAL_STAMP)  ## what the README and CI run
	$(BIN)/python -m pytest -m "not long"

test-all: $(STAMP) $(RCAEVAL_STAMP)  ## also storms, many workers and the browser
	$(BIN)/python -m pytest

test-quick: $(STAMP) $(RCAEVAL_STAMP)  ## without the real job: under three minutes
	$(BIN)/python -m pytest -m "not long and not job"

check: $(STAMP)  ## style, types, import rules, architecture: under a minute
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py

fault-page: $(STAMP)  ## write docs/faults.md from the types of the fault kinds
	$(BIN)/python -m injection.fault_page

format: $(STAMP)  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# In fresh environments, so that nothing installed by hand comes along.
lock:  ## make requirements.lock and requirements-rcaeval.lock anew from requirements*.in
	$(call locked,requirements,$(INDEX))
	$(call locked,requirements-rcaeval,,--exclude setuptools)

define locked
	$(PYTHON) -m venv --clear $(VENV)-lock
	$(VENV)-lock/bin/python -m pip --disable-pip-version-check --no-input install --quiet $(2) -r $(1).in
	{ echo "# Every version, locked. Made by \`make lock\` from $(1).in."; \
	  $(VENV)-lock/bin/python -m pip --disable-pip-version-check freeze --all --exclude pip $(3) | sed 's/+cpu$$//; s/+cu[0-9]*$$//'; } > $(1).lock.new
	mv $(1).lock.new $(1).lock
	rm -rf $(VENV)-lock
endef

clean:  ## remove the environments and what tools left; runs are kept under FAULTLINE_HOME
	rm -rf $(VENV) $(RCAEVAL) .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
