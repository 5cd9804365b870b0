# Every command of the project. `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROTO_VENV := .venv-proto
FLOORS_VENV := .venv-floors
DEPLOY_VENV := .venv-deploy
STUBS := clients/python
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
PROTOS := $(shell find proto -name '*.proto')
GRPCURL := v1.9.4
HEALTH_PROBE := v0.4.62
# Its name has the versions, so that others are installed anew.
GRPC_TOOLS := .tools/grpcurl.$(GRPCURL).$(HEALTH_PROBE)

.DEFAULT_GOAL := help
.PHONY: help install dev test test-clients test-floors check audit image soak robustness bench format proto docs screenshots grpcurl lock clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

install: $(VENV)/.installed ## make .venv and install everything, locked by hash

# --no-deps: the lock is complete, and pip's resolver would ask the index for newer releases
# of whatever is required with an extra, and then refuse them for want of a hash.
# What runs comes first: `make dev` needs no more, and does not wait for the tools of development.
$(VENV)/.runs: requirements/run.txt requirements/build.txt pyproject.toml clients/python/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, not %s; try: make PYTHON=python3.11" % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement requirements/build.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement requirements/run.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable $(STUBS) --editable .
	$(BIN)/pip check --quiet --disable-pip-version-check
	@touch $@

$(VENV)/.installed: requirements/dev.txt $(VENV)/.runs
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement requirements/dev.txt
	$(BIN)/pip check --quiet --disable-pip-version-check
	@touch $@

dev: $(VENV)/.runs ## run the broker with a simulated Gateway and its own PostgreSQL
	@exec $(BIN)/gateway-broker dev

# Three workers for two cores: half of the time is waiting. Bytecode is kept, since each of them and
# every command that they start would compile all of it anew.
test: export PYTHONDONTWRITEBYTECODE =
test: install $(DEPLOY_VENV)/.installed ## run the whole test suite
	$(BIN)/pytest --numprocesses 3 --dist worksteal --cov --cov-report=term:skip-covered
	$(BIN)/pytest --numprocesses 3 $(STUBS)

test-floors: install $(FLOORS_VENV)/.installed ## test Python's client with the oldest libraries that it supports
	GATEWAY_BROKER_PYTHON=$(CURDIR)/$(BIN)/python $(FLOORS_VENV)/bin/pytest --numprocesses 3 $(STUBS)

test-clients: install ## test the clients of all languages, or of LANGUAGES="go rust"
	$(BIN)/python -m clients.conformance $(LANGUAGES)

# The oldest libraries that a user of the Python client may have.
$(FLOORS_VENV)/.installed: requirements/floors.txt
	$(PYTHON) -m venv $(FLOORS_VENV)
	$(FLOORS_VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement $<
	@touch $@

# What reads the Dockerfile and deploy/, and asks for known weaknesses of what is installed.
$(DEPLOY_VENV)/.installed: requirements/deploy.txt
	$(PYTHON) -m venv $(DEPLOY_VENV)
	$(DEPLOY_VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement $<
	@touch $@

grpcurl: $(GRPC_TOOLS) ## install grpcurl and grpc_health_probe into .tools/bin (needs Go)

# What docs/grpcurl.md is tried with. Without cgo: no C compiler is needed.
$(GRPC_TOOLS): export CGO_ENABLED := 0
$(GRPC_TOOLS): export GOBIN := $(CURDIR)/.tools/bin
$(GRPC_TOOLS):
	go install github.com/fullstorydev/grpcurl/cmd/grpcurl@$(GRPCURL)
	go install github.com/grpc-ecosystem/grpc-health-probe@$(HEALTH_PROBE)
	mv .tools/bin/grpc-health-probe .tools/bin/grpc_health_probe
	@touch $@

check: install $(PROTO_VENV)/.installed $(DEPLOY_VENV)/.installed ## format, lint, types, imports, contract, generated files
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive broker $(STUBS)/ibgateway/client migrations scripts
	$(DEPLOY_VENV)/bin/hadolint Dockerfile
	$(BIN)/mypy
	cd $(STUBS)/tests && MYPYPATH=.. ../../../$(BIN)/mypy --config-file ../../../pyproject.toml --cache-dir ../../../.mypy_cache *.py
	cd $(STUBS)/conformance && MYPYPATH=.. ../../../$(BIN)/mypy --config-file ../../../pyproject.toml --cache-dir ../../../.mypy_cache *.py
	$(BIN)/lint-imports --no-cache
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	$(BIN)/python scripts/breaking.py
	$(BIN)/python scripts/stubs.py --check

audit: $(DEPLOY_VENV)/.installed ## ask PyPI for known weaknesses of what is locked
	$(DEPLOY_VENV)/bin/pip-audit --strict --require-hashes --disable-pip --requirement requirements/run.txt --requirement requirements/build.txt

image: ## build the image with Docker, as gateway-broker:VERSION
	docker build --build-arg VERSION=$(VERSION) --build-arg REVISION=$(shell git rev-parse HEAD) --tag gateway-broker:$(VERSION) --tag gateway-broker:latest .

soak: install ## break a simulated Gateway in front of ten sessions, for MINUTES=10
	MINUTES=$(or $(MINUTES),10) $(BIN)/pytest -s -o faulthandler_timeout=0 tests/soak

robustness: install ## kill the broker and its database under callers and watchers, for MINUTES=10
	MINUTES=$(or $(MINUTES),10) $(BIN)/pytest -s -o faulthandler_timeout=0 tests/robustness

bench: install ## measure against bare equivalents; a table, and bench/results.json
	$(BIN)/python -m bench

format: install ## put the code into its format
	$(BIN)/ruff format
	$(BIN)/ruff check --fix
	$(BIN)/buf format --write

proto: install $(PROTO_VENV)/.installed ## make the stubs of every language anew from proto/
	$(BIN)/python scripts/stubs.py

$(PROTO_VENV)/.installed: requirements/proto.txt
	$(PYTHON) -m venv $(PROTO_VENV)
	$(PROTO_VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement $<
	@touch $@

docs: install ## make the generated pages of docs/ anew
	$(BIN)/python scripts/docs.py

screenshots: install ## make the pictures of docs/console.md anew (needs Chromium)
	$(BIN)/python scripts/screenshots.py

lock: ## resolve requirements/*.txt anew (needs uv)
	uv pip compile --quiet --universal --generate-hashes --no-header --no-emit-package ibgateway-client --extra traces --group dev pyproject.toml --output-file requirements/dev.txt
	uv pip compile --quiet --universal --generate-hashes --no-header --no-emit-package ibgateway-client --extra traces --constraint requirements/dev.txt pyproject.toml --output-file requirements/run.txt
	uv pip compile --quiet --universal --generate-hashes --no-header --constraint requirements/dev.txt --group build --output-file requirements/build.txt
	uv pip compile --quiet --universal --generate-hashes --no-header requirements/deploy.in --output-file requirements/deploy.txt
	uv pip compile --quiet --universal --generate-hashes --no-header requirements/proto.in --output-file requirements/proto.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header requirements/floors.in --output-file requirements/floors.txt

clean: ## remove what the commands above have made
	rm -rf .tools $(VENV) $(PROTO_VENV) $(FLOORS_VENV) $(DEPLOY_VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage
