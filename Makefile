# make demo: environment, install, train Randman.   make test: environment, install, the quick tests.
# make more: tests that take long to compile, such as examples in pages and docstrings, and the site in a browser.
# make slow: the longest, and the notebooks.   make rest: both in one session, which compiles less.
# make docs: the site, into site/.   make notebooks: run all notebooks and write their outputs.
# make browser: installs Chromium, which the tests of the site need (without it they are skipped, and say so).
# make newest: what breaks with new versions of Python, JAX and Flax, on Python 3.13 in .venv313. PYTHON313=... says which one.
PYTHON ?= python3
# Some containers set this. Each process would then compile the source of JAX again: 5 s instead of 1.5 s for its import.
unexport PYTHONDONTWRITEBYTECODE
VENV ?= .venv
BIN := $(VENV)/bin
# python3.13 may be a shim of pyenv that does not run: take the first one that does
PYTHON313 ?= $(shell for p in python3.13 $$HOME/.pyenv/versions/3.13*/bin/python; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] != (3, 13))' 2>/dev/null && echo $$p && break; done)

# What depends most on versions: transformations and lowering, modules, checkpoints, training, Flax's tree mode, the README.
# Of the neurons, LIF and all that have a backward pass of their own: test_over_time.py compares the gradients of each with autodiff.
NEWEST := tests/test_tree_mode.py tests/dynamics/test_simulate.py tests/dynamics/test_over_time.py tests/dynamics/test_lif.py \
	tests/nn/test_layers.py tests/nn/test_network.py tests/nn/test_init.py \
	tests/training/test_checkpoint.py tests/training/test_fit.py tests/training/test_programs.py tests/test_initializers.py tests/test_random.py tests/test_readme.py

.PHONY: demo test more slow rest newest newest-install newest-tests lint docs browser notebooks clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

# without --no-compile, pip would compile every file of every package; most are never imported
$(VENV)/.installed-dev: $(BIN)/python setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --editable '.[dev]'
	touch $(VENV)/.installed $@

# what the tests of `make newest` need, without linters, site and optional packages
$(VENV)/.installed-newest: $(BIN)/python setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile \
		--editable . pytest pytest-xdist hypothesis scipy
	touch $(VENV)/.installed $@

demo: $(VENV)/.installed
	$(BIN)/snnjax train randman --epochs 60

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow and not more'

more: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal -m more

slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow

rest: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'more or slow'

# newest-install is the first half of newest, which CI does beside other work
newest newest-install:
ifeq ($(strip $(PYTHON313)),)
	@echo "make $@: skipped, because no Python 3.13 was found; PYTHON313=/path/to/python names one"
else
	$(MAKE) $(if $(filter newest,$@),newest-tests,.venv313/.installed-newest) VENV=.venv313 PYTHON=$(PYTHON313)
endif

newest-tests: $(VENV)/.installed-newest
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow and not more or newest' $(NEWEST)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/: python -m http.server -d site"

# Debian's package if it can be installed; otherwise the browser that Playwright downloads
browser: $(VENV)/.installed-dev
	command -v chromium-headless-shell chromium chromium-browser google-chrome || \
	{ apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium-headless-shell > /dev/null; } || \
	$(BIN)/playwright install --with-deps chromium

notebooks: $(VENV)/.installed-dev
	$(BIN)/python notebooks/execute.py

clean:
	rm -rf $(VENV) .venv313 build site *.egg-info
