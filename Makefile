# `make` lists the targets. Nothing is needed but make and a python3 from 3.10 to 3.13 with venv; on Debian and Ubuntu root
# gets venv installed where it is missing.

PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
SUPPORTED := 3.10 3.11 3.12 3.13

DEV := requirements/dev-$(VERSION).txt
OLDEST := requirements/oldest-$(VERSION).txt
TORCH := requirements/torch-$(VERSION).txt
BIN := .venv/bin

# An environment is built from its lock alone, and built again when the lock changes;
# the package itself is installed on top, and again when pyproject.toml changes. A stamp
# is touched last, so that a broken-off build is not taken for one.
LOCKED := .venv/locked-$(VERSION)
LOCKED_OLDEST := .venv-oldest/locked-$(VERSION)
LOCKED_TORCH := .venv-torch/locked-$(VERSION)
READY := .venv/ready-$(VERSION)
READY_OLDEST := .venv-oldest/ready-$(VERSION)
READY_TORCH := .venv-torch/ready-$(VERSION)

# -qq: pip's warnings are about the machine's configuration; errors are still shown. Everything is compiled once, here:
# where Python may not write bytecode (PYTHONDONTWRITEBYTECODE), each of the tests' many processes would do it again.
PIP := -m pip install -qq --disable-pip-version-check
INSTALL := $(PIP) --no-deps
FROM_LOCK := --require-hashes --only-binary :all: -r
FROM_HERE := --no-build-isolation --editable .

# Debian and Ubuntu have what venv needs, and Graphviz's program, in packages of their own: root gets them installed.
APT_INSTALL = { command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] && echo "Installing $(1) with apt-get." && \
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $(1); } >/dev/null 2>&1; }
VENV = @rm -rf $(1); $(PYTHON) -c 'import ensurepip' 2>/dev/null || $(call APT_INSTALL,python$(VERSION)-venv) || \
  { echo "$(PYTHON) has no ensurepip, which makes environments: install the system's package python$(VERSION)-venv," \
  "or use another Python, as in 'make PYTHON=python3.12'."; exit 1; }; $(PYTHON) -m venv $(1)
# By uv of .venv, in a tenth of pip's time. It does not read pip's settings: where they are needed to find a package, pip does it.
FILL = @$(BIN)/uv pip install -q --python $(1)/bin/python --no-deps --compile-bytecode $(FROM_LOCK) $(2) 2>/dev/null || \
  $(1)/bin/python $(INSTALL) $(FROM_LOCK) $(2)

COMPILE := --quiet --python-platform linux --only-binary :all: --generate-hashes \
  --no-emit-index-url --no-emit-build-options --custom-compile-command 'make lock' $(LOCK_FLAGS)

# What depends on the versions of the dependencies is run on the oldest of them, too; but not what their oldest versions of
# NumPy, pandas and PyArrow do differently themselves: odd values in property tests, infinities in a table's statistics.
ON_OLDEST := $(addprefix tests/,catalog cli fingerprint provenance serializers storage) \
  --ignore=tests/serializers/test_roundtrip.py --ignore=tests/serializers/test_statistics.py

# A process a core, each taking whole files; in the order of tests/conftest.py where pytest-xdist can be told.
PARALLEL := -n auto --dist loadfile
ORDERED := $(PARALLEL) --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help demo test soak test-torch check lint types docs wheel coverage bench format lock clean graphviz
.PHONY: .venv .venv-oldest .venv-torch

help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 18

demo: $(READY) ## run the example workflow: model selection on a real data set
	@$(BIN)/python examples/model_selection.py

test: $(READY) $(READY_OLDEST) graphviz ## run tests of every kind, with one seed of what is random for long
	FUNCTIONFUSE_OLDEST_PYTHON=$(CURDIR)/.venv-oldest/bin/python $(BIN)/python -m pytest $(ORDERED) -m "not wheel and not soak"

soak: $(READY) $(READY_OLDEST) ## run what is longer still, and what depends on versions on the oldest DuckDB and its like
	$(BIN)/python -m pytest $(ORDERED) -m soak
	.venv-oldest/bin/python -m pytest $(PARALLEL) -m "not soak" $(ON_OLDEST)

# A test that is skipped here is tested nowhere.
test-torch: $(READY_TORCH) ## run the tests of PyTorch's tensors, in an environment of their own
	FUNCTIONFUSE_SKIP_NOTHING=1 .venv-torch/bin/python -m pytest tests/serializers/test_torch.py

check: lint types ## lint, types and the quick tests, in under two minutes
	$(BIN)/python -m pytest $(ORDERED) -m "not slow and not wheel and not soak"

lint: $(READY) ## ruff, the formatting, and flake8 for what ruff does not see (setup.cfg)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/flake8 functionfuse catalog

format: $(READY) ## format the code and mend what ruff can mend
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: $(READY) ## mypy, strict
	$(BIN)/mypy

docs: $(READY) ## build the documentation into docs/_build; a warning is an error
	$(BIN)/python -m sphinx -W --keep-going -q docs docs/_build
	@echo "docs/_build/index.html"

wheel: $(READY) ## build the wheel, install it into a bare environment, run the quickstart there
	$(BIN)/python -m pytest tests/project/test_wheel.py

coverage: $(READY) graphviz ## the tests with their line and branch coverage
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -m "not wheel"
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

bench: $(READY) ## measure against the bare floor and the alternatives; prints ratios
	@$(BIN)/python benchmarks

lock: $(addprefix lock-,$(SUPPORTED)) ## compile requirements/*.txt anew; newer versions with LOCK_FLAGS=--upgrade

lock-%: $(READY)
	@echo "requirements/dev-$*.txt, oldest-$*.txt, torch-$*.txt"
	@$(BIN)/uv pip compile $(COMPILE) --python-version $* \
	  --extra s3 --extra dask --extra dataframe --extra polars --extra xarray --extra graph pyproject.toml requirements/dev.in -o requirements/dev-$*.txt >/dev/null
	@$(BIN)/uv pip compile $(COMPILE) --python-version $* \
	  --resolution lowest-direct pyproject.toml requirements/tests.in -o requirements/oldest-$*.txt >/dev/null
	@$(BIN)/uv pip compile $(COMPILE) --python-version $* \
	  pyproject.toml requirements/torch.in -o requirements/torch-$*.txt >/dev/null

clean: ## remove what the other targets made, the environments too
	rm -rf .venv .venv-oldest .venv-torch build dist docs/_build .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv: $(READY)
.venv-oldest: $(READY_OLDEST)
.venv-torch: $(READY_TORCH)

$(LOCKED): $(DEV)
	@echo "Building .venv for Python $(VERSION): a minute or two."
	$(call VENV,.venv)
	@$(BIN)/python $(INSTALL) $(FROM_LOCK) $(DEV)
	@touch $@

$(LOCKED_OLDEST): $(OLDEST) | $(LOCKED)
	@echo "Building .venv-oldest for Python $(VERSION)."
	$(call VENV,.venv-oldest)
	$(call FILL,.venv-oldest,$(OLDEST))
	@touch $@

# PyTorch comes last, with what its build for this machine needs beyond the lock (requirements/README.md).
$(LOCKED_TORCH): $(TORCH) requirements/torch.txt | $(LOCKED)
	@echo "Building .venv-torch for Python $(VERSION): a minute or two, much longer where PyTorch comes with CUDA."
	$(call VENV,.venv-torch)
	$(call FILL,.venv-torch,$(TORCH))
	@.venv-torch/bin/python $(PIP) --only-binary :all: -r requirements/torch.txt || { \
	  echo "PyTorch as in requirements/torch.txt cannot be installed for Python $(VERSION) here; its tests run where it can."; exit 1; }
	@touch $@

$(READY): $(LOCKED) pyproject.toml
	@$(BIN)/python $(INSTALL) $(FROM_HERE)
	@touch $@

$(READY_OLDEST): $(LOCKED_OLDEST) pyproject.toml
	@.venv-oldest/bin/python $(INSTALL) $(FROM_HERE)
	@touch $@

$(READY_TORCH): $(LOCKED_TORCH) pyproject.toml
	@.venv-torch/bin/python $(INSTALL) $(FROM_HERE)
	@touch $@

requirements/%-$(VERSION).txt:
	$(error Python $(VERSION) is not supported: say which one to use, as in `make $(MAKECMDGOALS) PYTHON=python3.11` ($(SUPPORTED)))

# GraphWorkflow draws with Graphviz's program; it comes from the system, not from a Python package.
graphviz:
	@command -v dot >/dev/null || $(call APT_INSTALL,graphviz) || \
	echo "Graphviz's program dot is missing: the tests that draw a workflow are skipped. Install the system's package graphviz."
