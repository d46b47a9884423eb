# Everything runs in .venv, which is made when it is missing or out of date.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# For example: make serve ARGS="--config relay.toml"
ARGS ?=
# For example: make unit TESTS=tests.switchboard.test_relay
TESTS ?= tests
# Processes that the tests run in; some tests wait, so one more than cores.
JOBS ?= 3
# For example: make conformance PYTHON27=/opt/python2.7/bin/python2.7
PYTHON27 ?=
# For example: make proxystore-tests PROXYSTORE=../proxystore
PROXYSTORE ?=

# Hundreds of processes of the tests load the same modules: keep them compiled.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help serve test lint types unit cluster-rules docs bench bench-quick bench-introspection conformance proxystore-tests chaos chaos-cluster chaos-survive matrix format wheel clean

help:
	@echo "make serve   run a relay in the foreground; ARGS=... goes to it"
	@echo "make test    linters, types, all tests, coverage"
	@echo "make unit    tests only; TESTS=tests.switchboard.test_relay takes some"
	@echo "make cluster-rules  1,000 random histories of a cluster, a minute"
	@echo "make matrix  tests on each Python that is found; ARGS=--ends for two"
	@echo "make docs    the documentation, into docs/_build/html"
	@echo "make bench   speed and memory beside proxystore-relay, some minutes; ARGS=..."
	@echo "make bench-quick  the same in less than one, and less precise"
	@echo "make bench-introspection  a crowd with new tokens, beside proxystore-relay"
	@echo "make conformance  the WebSocket test suite; needs a CPython 2.7, see conformance/"
	@echo "make proxystore-tests  proxystore's own tests of its relay, against this one"
	@echo "make chaos   honest clients among troublemakers, two minutes; ARGS=..."
	@echo "make chaos-cluster  the same on three relays and Redis, six minutes; ARGS=--quick"
	@echo "make chaos-survive  a relay that is killed and restarted, four minutes; ARGS=--quick"
	@echo "make format  rewrite the sources in the house's layout"
	@echo "make wheel   build the wheel into dist/"
	@echo "make clean   remove everything that was made"

serve: $(VENV)/relay
	$(BIN)/proxyrelay keep -- $(ARGS)

test: lint types unit

lint: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/test
	$(BIN)/mypy

unit: $(VENV)/test
	$(BIN)/coverage erase
	$(BIN)/coverage run -m twisted.trial --jobs $(JOBS) --random 0 $(TESTS)
	$(BIN)/coverage combine --quiet
	$(if $(filter tests,$(TESTS)),$(BIN)/coverage report)

cluster-rules: $(VENV)/test
	CLUSTER_EXAMPLES=1000 $(BIN)/python -m twisted.trial tests.cluster.test_rules

matrix: $(VENV)/test
	$(BIN)/python -m tests.matrix --jobs $(JOBS) $(ARGS)

docs: $(VENV)/docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	for page in README CONTRIBUTING CHANGELOG; do \
		$(BIN)/python -m docutils --strict $$page.rst /dev/null || exit; done

bench: $(VENV)/test
	$(BIN)/python -m benchmarks.compare --output benchmarks/results $(ARGS)

bench-quick: $(VENV)/test
	$(BIN)/python -m benchmarks.compare --quick $(ARGS)

bench-introspection: $(VENV)/test
	$(BIN)/python -m benchmarks.introspection

conformance: $(VENV)/relay
	$(BIN)/python -m conformance $(if $(PYTHON27),--python27 $(PYTHON27)) \
		$(VENV)/conformance

proxystore-tests: $(VENV)/test
	$(BIN)/python -m conformance.proxystore_tests $(VENV)/proxystore \
		$(if $(PROXYSTORE),--sources $(PROXYSTORE)) $(ARGS)

chaos: $(VENV)/test
	$(BIN)/python -m chaos $(ARGS)

chaos-cluster: $(VENV)/test
	$(BIN)/python -m chaos.cluster $(ARGS)

chaos-survive: $(VENV)/test
	$(BIN)/python -m chaos.survive $(ARGS)

format: $(VENV)/test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(VENV)/test
	$(BIN)/python -m build --wheel

clean:
	rm -rf $(VENV) .matrix build dist docs/_build *.egg-info _artifacts _trial_temp* .coverage .coverage.* \
		.mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# One stamp for what serving needs, one for what testing and measuring need, one for
# what the documentation is built with.
$(VENV)/relay: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/test: $(VENV)/relay
	$(BIN)/python -m pip install --quiet --editable '.[test,bench]'
	touch $@

$(VENV)/docs: $(VENV)/relay
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@
