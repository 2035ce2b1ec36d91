# make demo: environment, install, train Randman.   make test: environment, install, the quick tests.
# make more: tests that take long to compile, such as examples in pages and docstrings.   make slow: the longest, and the notebooks.
# make docs: the site, into site/.   make notebooks: run all notebooks and write their outputs.
# make newest: what breaks with new versions of Python, JAX and Flax, on Python 3.13 in .venv313. PYTHON313=... says which one.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# python3.13 may be a shim of pyenv that does not run: take the first one that does
PYTHON313 ?= $(shell for p in python3.13 $$HOME/.pyenv/versions/3.13*/bin/python; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] != (3, 13))' 2>/dev/null && echo $$p && break; done)

# What depends most on versions: transformations and lowering, modules, checkpoints, training, Flax's tree mode, the README.
NEWEST := tests/test_tree_mode.py tests/dynamics tests/nn/test_layers.py tests/nn/test_network.py tests/nn/test_init.py \
	tests/training/test_checkpoint.py tests/training/test_fit.py tests/training/test_programs.py tests/test_initializers.py tests/test_readme.py

.PHONY: demo test more slow newest newest-tests lint docs notebooks clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/snnjax train randman

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow and not more'

more: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal -m more

slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow

newest:
ifeq ($(strip $(PYTHON313)),)
	@echo "make newest: skipped, because no Python 3.13 was found; PYTHON313=/path/to/python names one"
else
	$(MAKE) newest-tests VENV=.venv313 PYTHON=$(PYTHON313)
endif

newest-tests: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow and not more or newest' $(NEWEST)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

notebooks: $(VENV)/.installed-dev
	$(BIN)/python notebooks/execute.py

clean:
	rm -rf $(VENV) .venv313 build site *.egg-info
