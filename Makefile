# `make help` lists the targets. PYTHON picks the interpreter the environment is made with.
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DISTRIBUTIONS := dmr_core dmr_adapters dmr_backends_llamacpp dmr_backends_vllm dmr_backends_nim dmr_cli
LOCAL_PORT ?= 13434
PORT ?= 8080
PLUGINS_DIR := $(or $(DOCKER_CONFIG),$(HOME)/.docker)/cli-plugins
.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-zA-Z_-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The stamp is newer than every file that says what to install, so setup runs again only when one changed.
$(VENV)/.ready: requirements-dev.txt $(addsuffix /pyproject.toml,$(DISTRIBUTIONS))
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

.PHONY: setup
setup: $(VENV)/.ready ## Make .venv with everything in it

.PHONY: demo
demo: $(VENV)/.ready ## Start the service, run the bundled model on llama.cpp, stream an answer
	@$(BIN)/python -m dmr_cli.demo.show

.PHONY: test
test: $(VENV)/.ready ## Run every unmarked test
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow"

.PHONY: format
format: $(VENV)/.ready ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix --quiet .

.PHONY: lint types arch
lint: $(VENV)/.ready ## Check formatting and lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
types: $(VENV)/.ready ## Check types
	$(BIN)/mypy
arch: $(VENV)/.ready ## Check who imports whom
	$(BIN)/lint-imports

.PHONY: check
check: lint types arch test ## What CI runs: format, lint, types, architecture, tests

.PHONY: build
build: $(VENV)/.ready ## Build six wheels in dist/, and the programs model-runner and model-cli in .venv/bin
	rm -rf dist
	for d in $(DISTRIBUTIONS); do $(BIN)/python -m build --quiet --wheel --outdir dist $$d || exit 1; done
	@ls dist/*.whl
	@ls $(BIN)/dmr $(BIN)/model-runner $(BIN)/model-cli

.PHONY: run
run: $(VENV)/.ready ## Run a development server (LLAMA_ARGS, LOCAL_PORT)
	MODEL_RUNNER_PORT=$(LOCAL_PORT) $(if $(LLAMA_ARGS),LLAMA_ARGS="$(LLAMA_ARGS)") $(BIN)/model-runner

.PHONY: install
install: $(VENV)/.ready ## Link the Docker CLI plugin, so that `docker model` is this dmr
	mkdir -p "$(PLUGINS_DIR)"
	ln -sf "$(CURDIR)/$(BIN)/model-cli" "$(PLUGINS_DIR)/docker-model"

.PHONY: docker-build docker-run
docker-build docker-run: ## Build or run the container image (comes with a later release)
	@echo "$@: the container image is not part of this release yet; see CHANGELOG.md" >&2; exit 1

.PHONY: bench-proxy bench-cli bench-start
bench-proxy: $(VENV)/.ready ## Requests and events per second against nginx, one run, interleaved
	$(BIN)/python -m tests.bench.proxy
bench-cli: $(VENV)/.ready ## Start-up of `dmr list` and `dmr --help` against `python -c pass`
	$(BIN)/python -m tests.bench.cli
bench-start: $(VENV)/.ready ## Time from exec to the first answer of the service
	$(BIN)/python -m tests.bench.start
.PHONY: bench-cold
bench-cold: $(VENV)/.ready ## Request to first token with no engine running, against the same engine started by hand
	$(BIN)/python -m tests.bench.cold
.PHONY: bench-swap
bench-swap: $(VENV)/.ready ## 200 queued requests for 3 models and 1 slot, against first come, first served
	$(BIN)/python -m tests.bench.swap
.PHONY: bench-pull
bench-pull: $(VENV)/.ready ## 1 GiB from a registry against `skopeo copy`, a throttled one against one stream, and the daemon's memory
	$(BIN)/python -m tests.bench.pull
.PHONY: bench-push
bench-push: $(VENV)/.ready ## 1 GiB to a registry against `skopeo copy`, and the same under a second name, which is a mount
	$(BIN)/python -m tests.bench.push
.PHONY: bench-package
bench-package: $(VENV)/.ready ## 4 GiB into the store by `dmr package`, against `cp` with a sync, and linked, against hashlib
	$(BIN)/python -m tests.bench.package

.PHONY: bench-store
bench-store: $(VENV)/.ready ## Listing, chatting and tagging with 1,000 and 10,000 models in the store, against one
	$(BIN)/python -m tests.bench.store

.PHONY: bench-tokens bench-rss
bench-tokens: $(VENV)/.ready ## Tokens per second of a model of 309 MB, at 1 and 8 clients, against straight from the engine's socket
	$(BIN)/python -m tests.bench.tokens
bench-rss: $(VENV)/.ready ## The service's memory after 100,000 requests, against after 10,000
	$(BIN)/python -m tests.bench.rss

FUZZ ?= 600
.PHONY: fuzz
fuzz: $(VENV)/.ready ## Fuzz every parser of hostile bytes, FUZZ=600 seconds each; FUZZ_TARGETS="gguf manifest" picks
	for target in $(or $(FUZZ_TARGETS),$$($(BIN)/python -m tests.fuzz --list)); do \
		$(BIN)/python -m tests.fuzz $$target --seconds $(FUZZ) || exit 1; done

.PHONY: test-scheduler
test-scheduler: $(VENV)/.ready ## 10,000 schedules on the rules, then 200 of them with real engine processes
	DMR_EXAMPLES=10000 $(BIN)/python -m pytest -q --timeout 3600 tests/unit/core/scheduling/test_machine.py
	DMR_REAL_EXAMPLES=200 $(BIN)/python -m pytest -q --timeout 3600 tests/integration/test_schedules_for_real.py

CRASHES ?= 1000
.PHONY: test-crash
test-crash: $(VENV)/.ready ## Kill processes that change a store, CRASHES=1000 times, at every call that changes it and at random
	$(BIN)/python -m tests.crash --kills $(CRASHES)

HAMMER ?= 60
.PHONY: test-hammer
test-hammer: $(VENV)/.ready ## Two services and command lines on one store for HAMMER=60 seconds: nothing acknowledged is lost
	$(BIN)/python -m tests.crash.hammer --seconds $(HAMMER)

SOAK ?= 300
.PHONY: soak
soak: $(VENV)/.ready ## Serve mixed traffic, kill engines, forgive nothing (SOAK=300 seconds; SOAK_ARGS, as --json FILE)
	$(BIN)/python -m tests.soak --seconds $(SOAK) $(SOAK_ARGS)

.PHONY: clean
clean: ## Remove build products and caches; models are never touched
	rm -rf dist build .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
