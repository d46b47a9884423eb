# Everything runs in .venv, which is made when it is missing or out of date.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# For example: make serve ARGS="--config relay.toml"
ARGS ?=
# For example: make unit TESTS=tests.test_relay
TESTS ?= tests

.PHONY: help serve test lint types unit bench-introspection format wheel clean

help:
	@echo "make serve   run a relay in the foreground; ARGS=... goes to it"
	@echo "make test    linters, types, all tests, coverage"
	@echo "make unit    tests only; TESTS=tests.test_relay takes some"
	@echo "make bench-introspection  a crowd with new tokens, beside proxystore-relay"
	@echo "make format  rewrite the sources in the house's layout"
	@echo "make wheel   build the wheel into dist/"
	@echo "make clean   remove everything that was made"

serve: $(VENV)/relay
	$(BIN)/twistd -n --pidfile= proxyrelay $(ARGS)

test: lint types unit

lint: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/test
	$(BIN)/mypy

unit: $(VENV)/test
	$(BIN)/coverage erase
	$(BIN)/coverage run -m twisted.trial --random 0 $(TESTS)
	$(BIN)/coverage combine --quiet
	$(if $(filter tests,$(TESTS)),$(BIN)/coverage report)

bench-introspection: $(VENV)/test
	$(BIN)/python -m benchmarks.introspection

format: $(VENV)/test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(VENV)/test
	$(BIN)/python -m build --wheel

clean:
	rm -rf $(VENV) build dist *.egg-info _trial_temp* .coverage .coverage.* \
		.mypy_cache .ruff_cache .hypothesis

# One stamp for what serving needs, one for what testing needs.
$(VENV)/relay: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/test: $(VENV)/relay
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@
