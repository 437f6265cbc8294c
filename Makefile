# make train    set up where needed, then train (ARGS="model=vgg data.resize=224" for another run)
# make test     set up where needed, then run the tests
# make check    lint, format and types
# make env      set up only
VENV ?= .venv
PYTHON ?= $(firstword $(foreach version,3.13 3.12 3.11,$(shell command -v python$(version))) python3)
ARGS ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: train test check env
train: $(STAMP)
	@$(BIN)/python scripts/train.py $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

env: $(STAMP)

# The stamp is written last: an installation that was cut off goes on, a finished one is not repeated.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
	  || { echo 'Python 3.11, 3.12 or 3.13 is needed; none was found as "$(PYTHON)": make PYTHON=/path/to/python3.12' >&2; exit 1; }
	@echo 'Setting up $(VENV): about 3 GB to download, once'
	@$(PYTHON) -m venv $(VENV) \
	  || { echo 'Python cannot make a virtual environment here (on Debian and Ubuntu: apt install python3-venv).' >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --progress-bar on --constraint constraints.txt --editable '.[test]'
	@touch $@
