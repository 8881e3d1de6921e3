# Rosetta Serve: one trained model in every deployment format, served side by side.
#
# Targets are manifests: an artifact's manifest is written last, so a file that is there is whole.

DATASET   ?= fashion_mnist
HOST      ?= 127.0.0.1
PORT      ?= 8000
TRAIN     ?=
VERIFY    ?=
URL       ?= http://$(HOST):$(PORT)
MODEL     ?=
MODELS    ?=
FORMAT    ?=
PYTHON    ?= python3

# A model that somebody brought has a folder of artifacts of its own; `conformance` and `diagnose` name served models by MODEL.
OWN       := $(if $(filter conformance diagnose,$(MAKECMDGOALS)),,$(MODEL)$(MODELS))
OWN_NAME  := $(shell basename "$(OWN)" | sed 's/\.[A-Za-z0-9]*$$//' | tr A-Z a-z | sed 's/[^a-z0-9_]/_/g')
ARTIFACTS ?= artifacts$(if $(OWN),-$(OWN_NAME),$(if $(filter fashion_mnist,$(DATASET)),,-$(DATASET)))

PY     := .venv/bin/python
OURS   := keras_cnn torch_cnn
A      := $(ARTIFACTS)

export HOST PORT ARTIFACTS PYTHON
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.DEFAULT_GOAL := help

# What each rule's code is made of, as the imports say it.
-include build/code.mk
build/code.mk: $(shell find contract train export serve/runtimes verify -name '*.py')
	@mkdir -p $(@D) && $(PYTHON) -m contract.code >$@.partial && mv $@.partial $@

.DELETE_ON_ERROR:
.PHONY: brought all up down logs ps sbom wheelhouse bench-images test-containers run artifacts verify web compare serve test conformance diagnose lint bench bench-serve readme screenshots help clean lock zoo

run: ## Do it all: environment, data, training, exports, parity; then serve the page (PORT=8000, HOST=127.0.0.1, DATASET=fashion_mnist; MODEL=file: your own)
	@./bootstrap port
	@$(MAKE) --no-print-directory $(if $(OWN),brought web,verify web $(A)/samples/index.json)
	@$(MAKE) --no-print-directory serve

artifacts: $(foreach model,$(OURS),$(foreach format,onnx savedmodel tflite tfjs,$(A)/$(model)/$(format)/manifest.json)) ## Train both models and write every artifact

upper  = $(shell echo $(subst -,_,$(1)) | tr a-z A-Z)
option = $(if $($(call upper,$(1))),--$(1) "$($(call upper,$(1)))")

SAID := name labels data preprocess arch answers trust

# The file takes the place of training, and what is unchanged is not made again. What is said of it counts from the command line
# alone: many a shell has a NAME of its own.
brought: .venv/ready web/node_modules/.package-lock.json ## Bring your own model: every format, compared with it (MODEL=file or MODELS=folder; LABELS= DATA= PREPROCESS= ARCH= NAME= TRUST=)
	@test -n "$(OWN)" || { echo "error: say which: make brought MODEL=path/to/model.h5, or MODELS=folder" >&2; exit 1; }
	@$(PY) -m bring $(foreach path,MODEL MODELS,$(if $($(path)),"$($(path))")) --artifacts $(A) $(foreach name,memory-gib minutes,$(call option,$(name))) $(foreach name,$(SAID),$(if $(findstring command,$(origin $(call upper,$(name)))),$(call option,$(name))))

verify: $(foreach model,$(OURS),$(A)/$(model)/.verified) ## Compare every artifact with its source: the parity gate

web: web/dist/index.html ## Build the page

serve: ## Serve what is there, building nothing
	@$(PY) -m serve

# --- The environment. What is downloaded, and how much, is said before it is taken.

.venv/ready: bootstrap requirements.lock
	@./bootstrap python
	@touch $@

web/node_modules/.package-lock.json: web/package-lock.json web/package.json bootstrap | .venv/ready
	@./bootstrap node
	@touch $@

$(A)/.data: $(CODE.contract.dataset) | .venv/ready
	@./bootstrap data $(DATASET)
	@mkdir -p $(A) && touch $@

# --- Training: one source artifact a framework. TRAIN= passes settings on, such as TRAIN="--epochs 2".

$(A)/keras_cnn/keras/manifest.json: $(CODE.train.keras_cnn) requirements.lock $(A)/.data | .venv/ready
	$(PY) -m train.keras_cnn $(@D) --dataset $(DATASET) $(TRAIN)

$(A)/torch_cnn/torch/manifest.json: $(CODE.train.torch_cnn) requirements.lock $(A)/.data | .venv/ready
	$(PY) -m train.torch_cnn $(@D) --dataset $(DATASET) $(TRAIN)

# --- Exports: one rule an edge of the graph of formats. An upgraded converter remakes its artifacts.

define edge # model, parent's format, format
$(A)/$(1)/$(3)/manifest.json: $(A)/$(1)/$(2)/manifest.json $(CODE.export) $(CODE.export.$(2)_to_$(3)) requirements.lock | .venv/ready
	$(PY) -m export $(A)/$(1)/$(2) $(3)
endef

$(eval $(call edge,keras_cnn,keras,onnx))
$(eval $(call edge,keras_cnn,keras,savedmodel))
$(eval $(call edge,torch_cnn,torch,onnx))
$(eval $(call edge,torch_cnn,onnx,savedmodel))
$(foreach model,$(OURS),$(eval $(call edge,$(model),savedmodel,tflite)))
$(foreach model,$(OURS),$(eval $(call edge,$(model),savedmodel,tfjs)))

# --- Parity: all artifacts of a model are compared in one process, which asks the source once.

# The target is a mark of its own, since make removes the targets of a command that fails: a failed result has to stay, so
# that it is served as the reason.

define parity # model
$(A)/$(1)/.verified: $(foreach format,onnx savedmodel tflite tfjs,$(A)/$(1)/$(format)/manifest.json) $(CODE.verify) | web/node_modules/.package-lock.json
	$(PY) -m verify $(A)/$(1) --dataset $(DATASET) $(VERIFY)
	@touch $$@
endef

$(foreach model,$(OURS),$(eval $(call parity,$(model))))

$(A)/samples/index.json: $(CODE.verify.samples) $(A)/.data | .venv/ready
	$(PY) -m verify.samples $(@D) --dataset $(DATASET)

# --- The page.

web/dist/index.html: $(shell find web/src web/public -type f 2>/dev/null) web/index.html web/vite.config.ts web/tsconfig.json web/node_modules/.package-lock.json
	npm --prefix web run build
	@touch $@

# --- Containers: docker/Dockerfile and docker/compose.yaml, with Docker or Podman. Nothing of .venv is needed for them.

all: ## Build every container image; training, exports and parity happen inside (MODEL=file: your own; ENGINE=docker or podman, BASE=, TORCH_INDEX=)
	@DATASET="$(DATASET)" TRAIN="$(TRAIN)" MODEL="$(MODEL)" $(foreach name,$(SAID),$(call upper,$(name))="$(if $(findstring command,$(origin $(call upper,$(name)))),$($(call upper,$(name))))") docker/build
	@echo "The images are built. Start them with: make up"

up: ## Start the stack of these images and print the page's address (PORT=8000, HOST=127.0.0.1)
	@docker/stack up

down: ## Stop the stack
	@docker/stack down

logs: ## Follow what the stack's containers write
	@docker/stack logs

ps: ## List the stack's containers
	@docker/stack ps

sbom: ## Write what each image holds, as CycloneDX, to build/sbom
	@docker/sbom

wheelhouse: ## Gather all that a build downloads in docker/wheelhouse, for `make all` without a network
	@docker/fill-wheelhouse

bench-images: .venv/ready ## Measure the images (size, start, memory, the gateway's hop), and write the README's table
	$(PY) -m bench.images --write README.md

test-containers: .venv/ready ## Build the images and test the stack on a real engine; as root on Debian it is installed and started
	@./bootstrap browser
	@docker/with-engine $(PY) -m pytest tests/containers $(PYTEST)

# --- Checks, figures, and the rest.

test: .venv/ready web/node_modules/.package-lock.json web/dist/index.html lint ## Install what the tests need and run them all, the page in real Chromium included
	@./bootstrap browser
	@./bootstrap data fashion_mnist
	npm --prefix web test
	$(PY) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(PYTEST)

conformance: .venv/ready ## Test any server of the Open Inference Protocol v2 (URL=http://127.0.0.1:8000; MODEL= names one)
	$(PY) -m pytest tests/conformance --confcutdir=tests/conformance --url=$(URL) $(if $(MODEL),--model=$(MODEL)) -rs $(PYTEST)

diagnose: | .venv/ready ## Find where an artifact parts from its source, layer by layer, and why (MODEL=keras_cnn FORMAT=tflite)
	@$(PY) -m verify.diagnose "$(MODEL)" "$(FORMAT)" --artifacts $(A) --dataset $(DATASET) $(DIAGNOSE)

lint: .venv/ready web/node_modules/.package-lock.json ## Check style and types: ruff, strict mypy, tsc --strict
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	npm --prefix web run check

# A damaged artifact or a failed parity is part of the answer here, so nothing of `verify` is asked for first.
compare: $(if $(OWN),brought,artifacts) web ## Measure every artifact and say which format to ship (TARGET=server|browser|mobile MAX_MB= MAX_MS= MIN_AGREEMENT=; BASELINE=report.json)
	-@./bootstrap browser
	$(PY) -m compare $(A) --dataset $(DATASET) $(foreach name,target max-mb max-ms min-agreement baseline,$(call option,$(name))) $(COMPARE)


zoo: .venv/ready web/node_modules/.package-lock.json ## Bring real architectures, and tabulate every format of each (ZOO="vit_tiny_torch lstm_keras": some)
	@./bootstrap data fashion_mnist
	@$(PY) -m bench.zoo $(or $(ZOO),--write bench/zoo/README.md)

bench-serve: verify ## Measure the service against what one would use instead (SERVING="--only json --seconds 5 --rounds 5")
	$(PY) -m bench.serving --artifacts $(A) $(SERVING)

bench: verify ## Measure what was not measured yet, and print it as tables: answers, time, sizes, training, stages
	@$(MAKE) --no-print-directory compare
	$(PY) -m compare.tables $(A)

readme: verify ## Fill the README's tables with the figures that `make bench` prints
	@$(MAKE) --no-print-directory compare
	$(PY) -m compare.tables $(A) --write README.md

screenshots: verify web $(A)/samples/index.json ## Take pictures of the page: the README's, and more in artifacts/screenshots
	@./bootstrap browser
	$(PY) -m tests.browser.screenshots $(A)/screenshots --readme web/screenshot.png

UV_COMPILE := .venv/uv/bin/uv pip compile --python-version 3.11 --python-platform x86_64-unknown-linux-gnu --no-annotate --no-header --quiet
# What each container image installs: the name of its list, and its extras.
PACKAGES := service=http train=train export=train,export,onnx,tflite \
  keras=http,keras torch=http,torch onnx=http,onnx tflite=http,tflite

lock: pyproject.toml .venv/ready ## Resolve pyproject.toml anew into requirements.lock, and the images' packages from that
	$(PY) -m pip install --quiet --upgrade --target .venv/uv uv
	$(UV_COMPILE) pyproject.toml --extra test --generate-hashes --no-emit-package torch --no-emit-package rosetta-serve -o requirements.lock
	@echo "# Made by \`make lock\`: what each image installs, at the versions and hashes of requirements.lock." >docker/packages
	@for list in $(PACKAGES); do \
	  echo "[$${list%=*}]"; \
	  $(UV_COMPILE) pyproject.toml $$(echo ",$${list#*=}" | sed 's/,/ --extra /g') -c requirements.lock --no-emit-package rosetta-serve | sed 's/==.*//'; \
	done >>docker/packages

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

clean: ## Remove artifacts and builds; the environment and the data stay (`git clean -fdX` takes these too)
	rm -rf artifacts artifacts-* build web/dist .mypy_cache .ruff_cache .pytest_cache
