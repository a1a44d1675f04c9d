# Everything a newcomer needs; `make help` lists it. Only Python 3.11 or newer, git and make have to be there.
PYTHON ?= python3
VENV ?= .venv
# Where pip finds torch's CPU build, for example https://download.pytorch.org/whl/cpu; empty: as pip is configured.
TORCH_INDEX ?=

COMMA := ,
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
RUN_READY := $(VENV)/.ready-to-run
TEST_READY := $(VENV)/.ready-to-test

.DEFAULT_GOAL := help
.PHONY: help quickstart browser test check lint types coverage fuzz bundle clean

help:  ## list these targets
	@echo "make TARGET [PYTHON=python3.12] [VENV=.venv] [TORCH_INDEX=https://download.pytorch.org/whl/cpu]"
	@sed -n 's/^\([a-z]*\):.*  ## /  \1\t/p' Makefile | expand -t 14

quickstart: $(RUN_READY)  ## install edgekd and run the main job, from photographs to the verdict
	$(BIN)/edgekd run recipes/quickstart.yaml --out runs/quickstart

test: $(TEST_READY)  ## install what the tests need and run them
	$(BIN)/python -m pytest -n auto --dist loadscope --cov --cov-branch --cov-report= --durations 20

browser: $(TEST_READY)  ## a browser for the tests that look at the report, if none is installed
	@command -v chromium chromium-browser google-chrome google-chrome-stable >/dev/null || $(BIN)/python -m playwright install --with-deps chromium || test -z "$$CI"

check: lint types test coverage bundle  ## everything that CI asks: style, types, tests, coverage

lint: $(TEST_READY)  ## style, shell scripts, workflows
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/shellcheck deploy/ci/gate.sh .ci/run
	$(BIN)/zizmor --offline --no-progress --quiet .github/workflows/*.yml deploy/ci/github-*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml deploy/ci/github-*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.gitlab-ci --data-transform gitlab-ci deploy/ci/gitlab-ci.yml

types: $(TEST_READY)  ## types
	$(BIN)/mypy

coverage: test  ## branch coverage of the two rooms that decide: at least 95 %
	$(BIN)/coverage report --include='edgekd/core/*' --fail-under=95
	$(BIN)/coverage report --include='edgekd/judging/*' --fail-under=95

fuzz: $(TEST_READY)  ## ten thousand generated budgets and reports; takes minutes
	EDGEKD_EXAMPLES=10000 $(BIN)/python -m pytest --timeout 3600 tests/judging/test_verdicts.py -k generated

bundle: $(TEST_READY)  ## a bundle's Python program in an environment of its own, as on a device
	$(BIN)/python -m pytest -m registry tests/exporting/test_bundle_venv.py

clean:  ## forget the environment, the runs and every cache
	rm -rf $(VENV) runs build dist .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "edgekd needs Python 3.11 or newer: make PYTHON=python3.12")'
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { rm -f $@; exit 1; }

# A file is touched when its installation is complete, so that a second make does nothing. Of pip's output only what it
# downloads and its errors are shown.
define install
	@rm -f $@
	@echo "installing edgekd $(1) into $(VENV): about 350 MB with the CPU build of torch, 3 GB with CUDA"
	@$(if $(TORCH_INDEX),$(PIP) install --quiet -c constraints.txt --extra-index-url $(TORCH_INDEX) torch torchvision,:)
	@{ $(PIP) install --progress-bar off -c constraints.txt -e '.[$(1)]' && touch $@; } | sed -n 's/^ *Downloading \(.* [MG]B)\)/  downloading \1/p'
	@test -f $@
endef

$(RUN_READY): pyproject.toml constraints.txt | $(BIN)/python
	$(call install,openvino$(COMMA)report)

$(TEST_READY): pyproject.toml constraints.txt | $(BIN)/python
	$(call install,dev)
	@touch $(RUN_READY)
