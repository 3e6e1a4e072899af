# Everything below is a command you could type. What it installs goes to $(CACHE), nothing else is touched.
CACHE ?= $(CURDIR)/.cache
export DREAMBOOTH_CACHE := $(CACHE)
export PYTHONPATH := $(CURDIR)/api:$(CURDIR)/operator:$(CURDIR)/job:$(CURDIR)
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE
PYTHON ?= python3
VENV := $(CACHE)/venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(shell cksum < requirements.lock | cut -d' ' -f1)

.DEFAULT_GOAL := help
.PHONY: help setup tools demo demo-down images e2e node-check test unit integration quality check crd docs lock clean

help: ## This list
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(READY): requirements.lock
	@echo "Setting up Python packages in $(VENV), once: about 6 GB (torch brings its CUDA libraries), 1 to 5 minutes."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=python3.x")'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check uv==$$(sed -n 's/^uv==\([0-9.]*\).*/\1/p' requirements.lock)
	@$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements.lock
	@printf '#!/bin/sh\nexec "%s" -m dreambooth_job "$$@"\n' "$(BIN)/python" > $(BIN)/dreambooth-job && chmod +x $(BIN)/dreambooth-job
	@rm -f $(VENV)/.ready-* && touch $@

setup: $(READY) ## Install the Python packages
tools: $(READY) ## Build the throw-away cluster's programs (about 4 min on 2 cores, once)
	@$(BIN)/python -m devcluster.toolchain

demo: $(READY) ## Teach a subject on this machine: real control plane, S3 server, operator and job, in one go
	@env -u OMP_NUM_THREADS $(BIN)/python -m devcluster.demo up
demo-down: ## End the demo and remove what it made
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m devcluster.demo down; fi

images: $(READY) ## Build both images, with docker or, as root, with buildah
	@$(BIN)/python -m devcluster.images
e2e: $(READY) ## The images and the chart on a real node, as root, or on any cluster (docs/e2e.md): 20 minutes
	@$(BIN)/python -m devcluster.toolchain node
	@$(BIN)/pytest -q -s tests -m e2e
node-check: $(READY) ## Can this machine build images and carry a real node?
	@$(BIN)/python -m devcluster.realnode && $(BIN)/python -m devcluster.images check

test: check unit integration quality ## All checks and tests
unit: $(READY) ## Tests without a cluster: under 2 minutes
	@$(BIN)/pytest -q tests -m 'not integration and not quality and not e2e'
integration: tools ## Tests against the real control plane and the real S3 server
	@$(BIN)/pytest -q tests -m integration
quality: $(READY) ## Train the toy base and measure that the subject is learned
	@env -u OMP_NUM_THREADS $(BIN)/pytest -q tests -m quality
check: $(READY) ## Formatting, lint, types, import rules
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy api/dreambooth_api operator/dreambooth_operator && $(BIN)/lint-imports

crd: $(READY) ## Write the CRD from the spec
	@$(BIN)/python -m dreambooth_api.crd > helm/dreambooth-operator/files/crds/trainingjobs.yaml
docs: $(READY) ## Write the generated pages of docs/
	@$(BIN)/python -m dreambooth_api.pages docs
COMPILE = $(BIN)/uv pip compile --universal --generate-hashes --no-header --no-annotate --quiet
lock: ## Resolve pyproject.toml into requirements.lock, and parts of it into the images' locks
	@$(COMPILE) pyproject.toml --extra operator --extra job --extra dev --extra image -o requirements.lock
	@for image in operator job image; do \
	  $(COMPILE) pyproject.toml --extra $$image -c requirements.lock --no-emit-package triton -o images/$$image.lock; done
	@echo torch | $(COMPILE) - -c requirements.lock --no-emit-package triton -o images/torch.lock
clean: demo-down ## Remove everything that was installed or built
	@rm -rf $(CACHE)
