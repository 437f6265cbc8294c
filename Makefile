# make train    set up where needed, then train (ARGS="model=vgg data.resize=224" for another run)
# make test     set up where needed, then run the tests
# make test-slow    the tests that take minutes: every step of every network, many kills
# make test-gpu    the tests that need a GPU; where there is none they are skipped, and that is said
# make browser  install Chromium, with which the tests look at the dashboard (Debian, Ubuntu; asks for root by sudo)
# make check    lint, format and types
# make env      set up only
VENV ?= .venv
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
  $$python -c '$(SUPPORTED)' 2>/dev/null && echo $$python && break; done)
ARGS ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: train test test-slow test-gpu browser check env
train: $(STAMP)
	@$(BIN)/python scripts/train.py $(ARGS)

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadgroup $(ARGS)

test-slow: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 -m slow $(ARGS)

test-gpu: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 -m gpu $(ARGS)

browser: $(STAMP)
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || { \
	  test "$$(id -u)" = 0 || sudo=sudo; \
	  $$sudo apt-get update -qq && $$sudo apt-get install -qq -y --no-install-recommends chromium chromium-driver; }

check: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

env: $(STAMP)

# The stamp is written last: an installation that was cut off goes on, a finished one is not repeated.
$(STAMP): pyproject.toml constraints.txt
	@python="$(PYTHON)"; { test -n "$$python" && "$$python" -c '$(SUPPORTED)'; } 2>/dev/null \
	  || { echo "Python 3.11, 3.12 or 3.13 is needed: install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 1; }; \
	echo "Setting up $(VENV) with $$python: about 3 GB to download, once"; \
	"$$python" -m venv $(VENV) \
	  || { echo "That Python cannot make a virtual environment (on Debian and Ubuntu: apt install python3-venv)." >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --progress-bar on --constraint constraints.txt --editable '.[test]'
	@touch $@
