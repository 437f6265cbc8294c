# make train    set up where needed, then train (ARGS="model=vgg data.resize=224" for another run)
# make test     set up where needed, then run the tests
# make test-slow    the tests that take minutes: every step of every network, many kills
# make test-gpu    the tests that need a GPU; where there is none they are skipped, and that is said
# make browser  install Chromium, with which the tests look at the dashboard (Debian, Ubuntu; asks for root by sudo)
# make check    lint, format and types
# make env      set up only, as requirements.txt says; by uv where there is one, and else (or with UV=) by pip
# make extras   add every extra (search, clusters, audit ...), as requirements-extras.txt says
# make coverage  run the tests (ARGS=tests/engines for some), and say which lines they reach; after make extras
# make lock     write both files anew, which takes uv (ARGS=--upgrade for newer versions)
VENV ?= .venv
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
  $$python -c '$(SUPPORTED)' 2>/dev/null && echo $$python && break; done)
ARGS ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
UV ?= $(shell command -v uv)
INSTALL = $(if $(UV),$(UV) pip install --python $(BIN)/python,$(BIN)/python -m pip install --quiet --progress-bar on)
LOCK = UV_CUSTOM_COMPILE_COMMAND="make lock" $(or $(UV),uv) pip compile --quiet --universal --generate-hashes --no-annotate $(ARGS)

.PHONY: train test test-slow test-gpu browser check env extras coverage lock
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

extras: $(STAMP)
	$(INSTALL) --require-hashes --requirement requirements-extras.txt

coverage: $(STAMP)
	@test -x $(BIN)/coverage || { echo "make extras installs coverage" >&2; exit 1; }
	$(BIN)/coverage erase
	OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest -n auto --maxprocesses 4 --dist loadgroup $(ARGS); code=$$?; \
	  $(BIN)/coverage combine --quiet && $(BIN)/coverage report && exit $$code

# What the extras do not force to differ has one version in both files: uv starts from those that a file holds.
lock:
	$(LOCK) --extra test pyproject.toml --output-file requirements.txt
	cp requirements.txt requirements-extras.txt
	$(LOCK) --all-extras pyproject.toml --output-file requirements-extras.txt

# The stamp is written last: an installation that was cut off goes on, a finished one is not repeated.
$(STAMP): pyproject.toml requirements.txt
	@python="$(PYTHON)"; { test -n "$$python" && "$$python" -c '$(SUPPORTED)'; } 2>/dev/null \
	  || { echo "Python 3.11, 3.12 or 3.13 is needed: install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 1; }; \
	echo "Setting up $(VENV) with $$python: about 3 GB to download, once"; \
	"$$python" -m venv $(VENV) \
	  || { echo "That Python cannot make a virtual environment (on Debian and Ubuntu: apt install python3-venv)." >&2; exit 1; }
	$(INSTALL) --require-hashes --requirement requirements.txt
	$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@
