# make book     build the site                make test       check everything
# make serve    build and show it             make notebooks  execute the chapters that changed
# make archive  the book as a PDF and as one file to take along
# make bench    time the kernels and their peers on this machine: celib/data/speed.json
# make oldest   test the library with its lower bounds: the oldest versions that it supports
# make bare     test the library with no more than NumPy, SciPy and array-api-compat
# make dist     make the sdist and the wheel, and try both
# make lint     check style and types             make format     mend what can be mended
#
# PYTHON names the interpreter to start from, VENV the environment that is made.

PYTHON ?= python3
VENV ?= .venv
PORT ?= 8000
WORKERS ?= 2
export OMP_NUM_THREADS ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK ?= 1

BIN := $(VENV)/bin
SITE := book/_build/html
TESTING := hypothesis nbval pytest
SHELL_OF_SITE := book/_config.yml $(wildcard book/_ext/* book/_ext/*/* book/_assets/* book/_templates/* book/_templates/*/*)

.PHONY: book serve archive notebooks bench lint format nbval library oldest bare dist links test address clean

book: $(VENV)/.book
	@if [ -f book/_build/.shell ] && [ -z "$$(find $(SHELL_OF_SITE) -newer book/_build/.shell)" ]; then all=; else all=--all; fi; \
	$(BIN)/jupyter-book build book -W -n --keep-going $$all && touch book/_build/.shell
	@echo "The book is at $(SITE)/index.html"

serve: book
	@echo "The book is at http://127.0.0.1:$(PORT)/ (stop with Ctrl-C)"
	@$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory $(SITE)

# The book to take along: as a PDF, and as the site in one file.
archive: $(VENV)/.all book
	$(BIN)/python book/pdf.py

notebooks: $(VENV)/.all
	$(BIN)/python book/notebooks.py $(NAMES)

# On all cores, unless the caller set OMP_NUM_THREADS; ARGS=--quick for a trial.
bench: $(VENV)/.all
	$(if $(filter file,$(origin OMP_NUM_THREADS)),env -u OMP_NUM_THREADS) $(BIN)/python -m benchmarks $(ARGS)

lint: $(VENV)/.all
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(VENV)/.all
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

test: lint book
	$(BIN)/python -m pytest --nbval -n $(WORKERS) --dist loadscope

# The notebooks alone, in whatever environment PYTHON has: on Colab's image, with newest versions.
nbval:
	$(PYTHON) -m pytest --nbval-lax book/chapters

# The tests of the library alone, in whatever environment PYTHON has.
library:
	PYTHONPATH=. $(PYTHON) -m pytest README.md celib tests

# Each in an environment of its own, made anew.
oldest:
	$(PYTHON) -m venv --clear $(VENV)-oldest
	$(PYTHON) tools/minima.py > $(VENV)-oldest/minima.txt
	$(VENV)-oldest/bin/pip install --quiet -r $(VENV)-oldest/minima.txt $(TESTING) pandas polars
	$(MAKE) library PYTHON=$(VENV)-oldest/bin/python

bare:
	$(PYTHON) -m venv --clear $(VENV)-bare
	$(VENV)-bare/bin/pip install --quiet --editable . $(TESTING)
	$(MAKE) library PYTHON=$(VENV)-bare/bin/python

# The tests of the sdist are those of `make bare`, from the folder that it unpacks to.
dist:
	rm -rf dist $(VENV)-dist/unpacked
	$(PYTHON) -m venv --clear $(VENV)-dist
	$(VENV)-dist/bin/pip install --quiet build twine
	$(VENV)-dist/bin/python -m build
	$(VENV)-dist/bin/twine check --strict dist/*
	$(PYTHON) -m venv --clear $(VENV)-bare
	$(VENV)-bare/bin/pip install --quiet dist/*.whl
	cd $(VENV)-bare && bin/python -c "from celib import calibration, information, scoring, stable"
	$(VENV)-bare/bin/pip uninstall --quiet --yes cross-entropy
	mkdir $(VENV)-dist/unpacked
	tar --extract --gzip --file dist/*.tar.gz --directory $(VENV)-dist/unpacked --strip-components 1
	$(VENV)-bare/bin/pip install --quiet $(VENV)-dist/unpacked $(TESTING)
	cd $(VENV)-dist/unpacked && $(abspath $(VENV))-bare/bin/python -m pytest

# Every external link of the book, asked for: the only target that needs the network.
links: $(VENV)/.book
	$(BIN)/jupyter-book build book -W -n --keep-going --all --builder linkcheck

# Publishing fills in where the repository is: make address REPOSITORY=https://github.com/me/book
address: NAMED = $(subst /, ,$(patsubst https://github.com/%,%,$(REPOSITORY)))
address: $(VENV)/.all
	@test -n "$(REPOSITORY)" || { echo "say REPOSITORY=https://github.com/OWNER/NAME"; exit 2; }
	sed -i.old 's|url: https://github.com/.*|url: $(REPOSITORY)|' book/_config.yml
	sed -i.old -E -e 's|"https://github.com/[^/"]+/[^/"]+|"$(REPOSITORY)|' \
	    -e 's|"https://[^/"]+[.]github[.]io/[^"]*|"https://$(word 1,$(NAMED)).github.io/$(word 2,$(NAMED))/|' pyproject.toml
	rm book/_config.yml.old pyproject.toml.old
	$(BIN)/python book/notebooks.py

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed: on Debian and Ubuntu, apt install python3-venv"; rm -rf $(VENV); exit 1; }

$(VENV)/.book: book/requirements.txt | $(BIN)/python
	$(BIN)/pip install --quiet -r book/requirements.txt
	@touch $@

$(VENV)/.all: requirements.txt book/requirements.txt pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet -r requirements.txt
	$(BIN)/pip install --quiet --no-deps --editable .
	@touch $@ $(VENV)/.book

clean:
	rm -rf book/_build
