# Rosetta Serve: one trained model in every deployment format, served side by side.
#
# Targets are manifests: an artifact's manifest is written last, so an artifact that has one is whole.

# The variables to set on the command line or in the environment. `make help` prints the line above each. Any other name on
# the command line is an error.

## The data set: fashion_mnist or cifar10
DATASET       ?= fashion_mnist
## The address that the service listens on
HOST          ?= 127.0.0.1
## The port that the service listens on
PORT          ?= 8000
## The model file to bring in place of training; for diagnose and conformance, a model's name
MODEL         ?=
## What a key may call, such as "keras_cnn-*,metrics"; everything where it is left out
CALLS         ?=
## A folder of model files to bring
MODELS        ?=
## The brought model's name, where it is not the file's; for key, the key's
NAME          ?=
## The brought model's classes: a text file with one on each line
LABELS        ?=
## The data on which to compare the brought model's formats: a folder of pictures, for example
DATA          ?=
## How pixels become the brought model's input: none, unit, symmetric, imagenet, caffe, or "size=224 scale=1/255"
PREPROCESS    ?=
## The function that builds the network of brought weights: module:callable
ARCH          ?=
## A folder in which Python finds that module
ARCH_PATH     ?=
## What the brought model takes, where that is open: pictures or tensors
KIND          ?=
## What the brought model answers with: probabilities, logits or values
ANSWERS       ?=
## 1 allows a brought file to run its own code
TRUST         ?=
## none reads a brought file even where a part of the sandbox cannot be had
SANDBOX       ?=
## The memory that bringing one model may take, in GiB
MEMORY_GIB    ?=
## The time that bringing one model may take, in minutes
MINUTES       ?=
## The format to diagnose, such as tflite
FORMAT        ?=
## Where compare should choose a format for: server, browser, android or ios
TARGET        ?=
## The most that a chosen format may weigh, in MB
MAX_MB        ?=
## The longest that a chosen format may take for a picture, in ms
MAX_MS        ?=
## The share of pictures whose class has to stay, such as 0.999
MIN_AGREEMENT ?=
## The precisions that compare may choose, such as float32 or int8,fp16; all where it is empty
ALLOW_PRECISION ?=
## An earlier folder of artifacts to measure by turns with these, or an earlier report.json
BASELINE      ?=
## What compare counts as a request to a server: binary, json, png or jpeg
REQUEST       ?=
## The reduced precisions to make: all, none, or some, such as int8,fp16; the usual ones where it is empty
PRECISION     ?=
## What a reduced precision may lose of its source's accuracy, such as 0.5%
MAX_LOSS      ?=
## The server that conformance tests, such as grpc://127.0.0.1:8001
URL           ?= http://$(HOST):$(PORT)
## The architectures of the zoo to bring; all where it is empty
ZOO           ?=
## The models of public packages to bring, by name; all where it is empty
ONLY          ?=
## The folder of the artifacts; by default it follows DATASET and MODEL
ARTIFACTS     ?= artifacts$(if $(OWN),-$(OWN_NAME),$(if $(filter fashion_mnist,$(DATASET)),,-$(DATASET)))
## The Python that makes .venv
PYTHON        ?= python3
## An index of CPU builds of PyTorch, instead of PyTorch's own
TORCH_INDEX   ?=
## The folder of downloaded data sets
ROSETTA_DATA  ?=
## The optional runtimes to install: openvino, executorch, coreai, coreml
RUNTIMES      ?=
## The Chromium that tests and measures the page
CHROMIUM      ?=
## 1 shows the warnings of pip and of the frameworks
VERBOSE       ?=
## The container engine: docker or podman
ENGINE        ?=
## The base image of the containers
BASE          ?=
## The tag of the images that up, ps and sbom take
TAG           ?=
## The network of a container build's steps
NETWORK       ?=
## The stack's name under Compose
COMPOSE_PROJECT_NAME ?=
## How long up waits for the stack, in seconds
READY_SECONDS ?=
## Arguments for training, such as "--epochs 2"
TRAIN         ?=
## Arguments for the parity gate, such as "--limit 256"
VERIFY        ?=
## Arguments for compare
COMPARE       ?=
## Arguments for diagnose
DIAGNOSE      ?=
## Arguments for bench-serve, such as "--only json --seconds 5"
SERVING       ?=
## The faults to plant, by name; all where it is empty
FAULTS        ?=
## Arguments for pytest
PYTEST        ?=

# The settings of pip and of the service (SERVE_*) pass through: their own programs check them.
SETTINGS := $(shell sed -n 's/^\([A-Z_]*\) *?=.*/\1/p' Makefile)
GIVEN    := $(foreach name,$(.VARIABLES),$(if $(findstring command,$(origin $(name))),$(name)))
UNKNOWN  := $(firstword $(filter-out $(SETTINGS) SERVE_% PIP_% MAKE% -%,$(GIVEN)))
ifdef UNKNOWN
$(error $(shell ./bootstrap nearest $(UNKNOWN) $(SETTINGS)))
endif

# A brought model has a folder of artifacts of its own. For `conformance` and `diagnose` MODEL is the name of a model.
OWN      := $(if $(filter conformance diagnose,$(MAKECMDGOALS)),,$(MODEL)$(MODELS))
OWN_NAME := $(shell basename "$(OWN)" | sed 's/\.[A-Za-z0-9]*$$//' | tr A-Z a-z | sed 's/[^a-z0-9_]/_/g')
# Variants of reduced precision are made when this file is missing: its name has the choice and the limit, so that others make
# them and their parity anew. A % would make a pattern of the name.
comma := ,
space := $() $()
CHOICE = .precision-$(subst $(space),,$(subst $(comma),-,$(or $(PRECISION),usual)))$(if $(MAX_LOSS),-$(subst %,percent,$(MAX_LOSS)))
PY       := .venv/bin/python
OURS     := keras_cnn torch_cnn
# The optional runtimes that there are, and those that are installed: our own models are converted to these formats, too,
# where an edge leads there.
OPTIONAL := openvino executorch coreai coreml
# Those that are made from PyTorch's program.
OF_TORCH := executorch coreai coreml
HERE     := $(filter $(OPTIONAL),$(notdir $(wildcard .venv/runtimes/*)))
FORMATS_keras_cnn := onnx savedmodel tflite tfjs $(filter-out $(OF_TORCH),$(HERE))
FORMATS_torch_cnn := onnx savedmodel tflite tfjs $(HERE)
A        := $(ARTIFACTS)
# The documents that have a table of this name, which a command writes.
tables   = $(shell grep -l '<!-- figures: $(1)' README.md docs/*.md)
# Runs a step: warnings go to build/logs, and are shown when it fails.
QUIETLY  := ./bootstrap quietly

export HOST PORT ARTIFACTS PYTHON VERBOSE
# Whatever loads artifacts follows their manifests' word for trust only then.
ifeq ($(TRUST),1)
export SERVE_TRUST := 1
endif
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Else each process would compile TensorFlow again: pip leaves that to the first one.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help

# The files that each rule's code consists of: contract/code.py reads the imports.
-include build/code.mk
build/code.mk: $(shell find contract train export serve/runtimes verify bring/verdict -name '*.py')
	@mkdir -p $(@D) && $(PYTHON) -m contract.code >$@.partial && mv $@.partial $@

.DELETE_ON_ERROR:
.PHONY: brought $(shell sed -n 's/^\([a-z-]*\):.* \#\# .*/\1/p' Makefile)

# Each model is trained and converted on one core, mostly; the page's packages come meanwhile.
run: ## Do everything: install, train, export, verify, and serve the page (PORT= HOST= DATASET=; MODEL=file serves your own model)
	@./bootstrap port
	@$(MAKE) --no-print-directory $(if $(filter -j%,$(MAKEFLAGS)),,-j3) $(if $(OWN),bring web,verify web $(A)/samples/index.json)
	@$(MAKE) --no-print-directory serve

train: $(A)/keras_cnn/keras/manifest.json $(A)/torch_cnn/torch/manifest.json ## Train both models (DATASET= TRAIN="--epochs 2")

export: $(foreach model,$(OURS),$(foreach format,$(FORMATS_$(model)),$(A)/$(model)/$(format)/manifest.json) $(A)/$(model)/$(CHOICE)) ## Convert both models to every format, and make variants of reduced precision (PRECISION=all|none|int8,fp16)

artifacts: train export ## Write every artifact: train, then export

upper  = $(shell echo $(subst -,_,$(1)) | tr a-z A-Z)
option = $(if $($(call upper,$(1))),--$(1) "$($(call upper,$(1)))")

# These describe a brought model, and what it is trusted with. They count on the command line alone: many a shell has a NAME of its own.
DESCRIPTION := name labels data preprocess kind arch arch-path answers trust sandbox

# The file takes the place of training. What is unchanged is not made again.
bring: .venv/compiled web/node_modules/.package-lock.json ## Bring your own model: write every format and compare it with the model (MODEL=file or MODELS=folder; LABELS= DATA= PREPROCESS= KIND= ARCH= ARCH_PATH= ANSWERS= NAME= TRUST= SANDBOX= MEMORY_GIB= MINUTES=)
	@test -n "$(OWN)" || { echo "error: No model is named. Set MODEL=path/to/model.h5, or MODELS=folder." >&2; exit 1; }
	@$(PY) -m bring $(foreach path,MODEL MODELS,$(if $($(path)),"$($(path))")) --artifacts $(A) $(foreach name,memory-gib minutes precision max-loss,$(call option,$(name))) $(foreach name,$(DESCRIPTION),$(if $(findstring command,$(origin $(call upper,$(name)))),$(call option,$(name))))

brought: bring

verify: $(foreach model,$(OURS),$(A)/$(model)/.verified) ## Compare every artifact with its source: the parity gate

verify-arm: .venv/arm/ready $(if $(OWN),bring,verify) ## Prove on emulated 64-bit ARM that TF Lite and ONNX answer as they do here (MODEL=file proves your own model); no time is measured
	@$(QUIETLY) verify-arm $(PY) -m verify.arm $(A) --dataset $(DATASET)

web: web/dist/index.html ## Build the page

serve: ## Serve the artifacts that are there; build nothing (PORT= HOST=)
	@./bootstrap serve

key: | .venv/ready ## Make a key for a caller of the service (NAME=app CALLS="keras_cnn-*" SERVE_KEYS_FILE=keys)
	@$(PY) -m serve.keys $(if $(findstring command,$(origin NAME)),"$(NAME)") $(if $(CALLS),"$(CALLS)")

certificate: ## Make a certificate for TLS in tls/, from an authority of its own that phones can trust (NAME=models.local)
	@./bootstrap certificate $(if $(findstring command,$(origin NAME)),"$(NAME)")

# --- The environment. bootstrap says what it downloads, and how much, before it does.

.venv/ready: bootstrap requirements.lock
	@./bootstrap python
	@touch $@

# What loads a stranger's file may write nothing, so there Python would compile a module each time that it imports it.
.venv/compiled: .venv/ready
	@$(PY) -m compileall -qq -j 0 .venv/lib || true # some packages ship modules of Python 2
	@touch $@

# An optional runtime, at the versions of its own lock.
runtimes: $(patsubst %,.venv/runtimes/%,$(filter $(OPTIONAL),$(RUNTIMES))) ## Install optional runtimes, and with each the format that it runs (RUNTIMES="openvino executorch")
	@test -n "$(RUNTIMES)" -a -z "$(filter-out $(OPTIONAL),$(RUNTIMES))" || \
	  { echo "error: RUNTIMES=$(RUNTIMES) cannot be installed. Set it to some of: $(OPTIONAL)." >&2; exit 1; }

.venv/runtimes/%: requirements.%.lock | .venv/ready
	@./bootstrap runtime $*
	@mkdir -p $(@D) && touch $@

# The system that verify-arm emulates.
.venv/arm/ready: verify/arm/system.sh requirements.lock | .venv/ready
	@./bootstrap arm
	@touch $@

web/node_modules/.package-lock.json: web/package-lock.json web/package.json bootstrap | .venv/ready
	@./bootstrap node
	@touch $@

$(A)/.data: $(CODE.contract.dataset) | .venv/ready
	@./bootstrap data $(DATASET)
	@mkdir -p $(A) && touch $@

# --- Training: one source artifact for each framework.

$(A)/keras_cnn/keras/manifest.json: $(CODE.train.keras_cnn) requirements.lock $(A)/.data | .venv/ready
	@$(QUIETLY) train.keras_cnn $(PY) -m train.keras_cnn $(@D) --dataset $(DATASET) $(TRAIN)

$(A)/torch_cnn/torch/manifest.json: $(CODE.train.torch_cnn) requirements.lock $(A)/.data | .venv/ready
	@$(QUIETLY) train.torch_cnn $(PY) -m train.torch_cnn $(@D) --dataset $(DATASET) $(TRAIN)

# --- Exports: one rule for each edge of the graph of formats. An upgraded converter remakes its artifacts.

define edge # model, the parent's format, format
$(A)/$(1)/$(3)/manifest.json: $(A)/$(1)/$(2)/manifest.json $(CODE.export) $(CODE.export.$(2)_to_$(3)) requirements.lock $(wildcard requirements.$(3).lock) | .venv/ready
	@$(QUIETLY) export.$(1)-$(3) $(PY) -m export $(A)/$(1)/$(2) $(3)
endef

$(eval $(call edge,keras_cnn,keras,onnx))
$(eval $(call edge,keras_cnn,keras,savedmodel))
$(eval $(call edge,torch_cnn,torch,onnx))
$(eval $(call edge,torch_cnn,onnx,savedmodel))
$(foreach model,$(OURS),$(eval $(call edge,$(model),savedmodel,tflite)))
$(foreach model,$(OURS),$(eval $(call edge,$(model),savedmodel,tfjs)))
$(foreach model,$(OURS),$(eval $(call edge,$(model),onnx,openvino)))
$(foreach format,$(OF_TORCH),$(eval $(call edge,torch_cnn,torch,$(format))))

# --- Reduced precisions: one process makes all of a model, so that their framework starts once.

define precisions # model
$(A)/$(1)/$(CHOICE): $(foreach format,onnx tflite tfjs $(filter executorch,$(FORMATS_$(1))),$(A)/$(1)/$(format)/manifest.json $(wildcard requirements.$(format).lock)) $(CODE.export.precision) requirements.lock | .venv/ready
	@rm -f $$(@D)/.precision-*
	@$(QUIETLY) export.$(1)-precision $(PY) -m export.precision $$(@D) --dataset $(DATASET) --precision "$(PRECISION)"
	@touch $$@
endef

$(foreach model,$(OURS),$(eval $(call precisions,$(model))))

# --- Parity: one process compares all artifacts of a model, and runs the source once.

# The target is an empty file, because make removes the targets of a command that fails. A failed result has to stay: the
# service gives it as the reason.

define parity # model
$(A)/$(1)/.verified: $(foreach format,$(FORMATS_$(1)),$(A)/$(1)/$(format)/manifest.json) $(wildcard $(A)/$(1)/*/mac.json) $(A)/$(1)/$(CHOICE) $(CODE.verify) | web/node_modules/.package-lock.json
	@$(QUIETLY) verify.$(1) $(PY) -m verify $(A)/$(1) --dataset $(DATASET) $(call option,max-loss) $(VERIFY)
	@touch $$@
endef

$(foreach model,$(OURS),$(eval $(call parity,$(model))))

$(A)/samples/index.json: $(CODE.verify.samples) $(A)/.data | .venv/ready
	@$(QUIETLY) verify.samples $(PY) -m verify.samples $(@D) --dataset $(DATASET)

# --- The page.

web/dist/index.html: $(shell find web/src web/public -type f 2>/dev/null) web/index.html web/vite.config.ts web/tsconfig.json web/node_modules/.package-lock.json
	@$(QUIETLY) web npm --prefix web run --silent build -- --logLevel warn
	@touch $@

# --- Containers: docker/Dockerfile and docker/compose.yaml, with Docker or Podman. They need nothing of .venv.

BUILD = DATASET="$(DATASET)" TRAIN="$(TRAIN)" MODEL="$(MODEL)" $(foreach name,$(DESCRIPTION),$(call upper,$(name))="$(if $(findstring command,$(origin $(call upper,$(name)))),$($(call upper,$(name))))") docker/build

all: ## Build every container image; the build trains, exports and verifies (MODEL=file builds your own model; ENGINE= BASE= TORCH_INDEX=)
	@$(BUILD)
	@echo "The images are built. Start them with: make up"

image-openvino: ## Build serve-openvino, the image of OpenVINO, which is not part of the stack (MODEL=file, as for all)
	@$(BUILD) serve-openvino

up: ## Start the stack of these images and print the page's address (PORT= HOST= TAG= SERVE_TLS_CERT= ...)
	@docker/stack up

down: ## Stop the stack
	@docker/stack down

logs: ## Follow the logs of the stack's containers
	@docker/stack logs

ps: ## List the stack's containers
	@docker/stack ps

sbom: ## List what each image holds, as CycloneDX, in build/sbom
	@docker/sbom

wheelhouse: ## Gather every download of a build in docker/wheelhouse, for `make all` without a network
	@docker/offline/fill-wheelhouse

bench-images: .venv/ready ## Measure the images: size, start, memory, the gateway's hop; and write the table
	$(PY) -m bench.images --write $(call tables,images)

test-containers: .venv/ready ## Build the images and test the stack on a real engine; as root on Debian, install and start one
	@./bootstrap browser
	@docker/offline/with-engine $(PY) -m pytest tests/containers --timeout 1500 $(PYTEST)

# --- Checks, figures, and the rest.

test: .venv/compiled $(patsubst %,.venv/runtimes/%,$(OPTIONAL)) web/node_modules/.package-lock.json web/dist/index.html lint ## Install what the tests need, and run all tests, with the page in Chromium, Firefox and WebKit
	@./bootstrap browsers
	@./bootstrap r
	@./bootstrap data fashion_mnist
	npm --prefix web test
	$(PY) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 $(PYTEST)

conformance: .venv/ready ## Test any server of the Open Inference Protocol v2, over HTTP or gRPC (URL= MODEL=name)
	$(PY) -m pytest tests/conformance --confcutdir=tests/conformance --url=$(URL) $(if $(MODEL),--model=$(MODEL)) -rs $(PYTEST)

diagnose: | .venv/ready ## Find the layer where an artifact departs from its source, and why (MODEL=keras_cnn FORMAT=tflite)
	@$(PY) -m verify.diagnose "$(MODEL)" "$(FORMAT)" --artifacts $(A) --dataset $(DATASET) $(DIAGNOSE)

lint: .venv/ready web/node_modules/.package-lock.json ## Check style and types: ruff, strict mypy, tsc --strict
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	npm --prefix web run check

# A damaged artifact or a failed parity is part of the answer, so `verify` is not a prerequisite.
compare: $(if $(OWN),bring,artifacts) web ## Measure every artifact and say which format to ship (TARGET=server|browser|android|ios MAX_MB= MAX_MS= MIN_AGREEMENT= ALLOW_PRECISION=int8 REQUEST=binary|json|png|jpeg BASELINE=old/artifacts)
	-@./bootstrap browser
	$(PY) -m compare $(A) --dataset $(DATASET) $(foreach name,target max-mb max-ms min-agreement allow-precision request baseline,$(call option,$(name))) $(COMPARE)

zoo: .venv/compiled web/node_modules/.package-lock.json ## Bring real architectures, and tabulate every format of each (ZOO="vit_tiny_torch lstm_keras" PRECISION=)
	@./bootstrap data fashion_mnist
	@$(PY) -m bench.zoo $(call option,precision) $(or $(ZOO),--write $(call tables,zoo))

field: .venv/compiled web/node_modules/.package-lock.json ## Bring the trained models of public packages, and tabulate every format of each (ONLY="magika centerface")
	@$(PY) -m bench.field $(or $(ONLY),--write $(call tables,field))

faults: verify ## Plant faults into copies of artifacts, and tabulate who sees them (FAULTS="dropout-left-on upside-down")
	@$(PY) -m bench.faults --artifacts $(A) $(if $(FAULTS),--only $(FAULTS),--write $(call tables,faults))

bench-serve: verify ## Measure the service beside the servers that you could use instead (SERVING="--only json --seconds 5")
	$(PY) -m bench.serving --artifacts $(A) $(SERVING)

fuzz: .venv/ready ## Send the service 100,000 hostile bodies over HTTP and gRPC each, and fail where one costs much
	FUZZ_CASES=100000 $(PY) -m pytest tests/test_serve_cost.py tests/test_serve_fuzz.py tests/test_serve_rpc_fuzz.py -s $(PYTEST)

bench-page: verify web $(A)/samples/index.json ## Measure what the page itself costs a visitor, and write the table
	@./bootstrap browser
	$(PY) -m bench.page $(A) --write $(call tables,page)

bench-runtimes: verify ## Time each runtime beside the other ways to drive it, fail where one of them is faster, and write the table
	$(PY) -m bench.runtimes $(A) --write $(call tables,runtimes)

bench: verify ## Measure what has no measurement yet, and print tables: answers, time, sizes, training, stages
	@$(MAKE) --no-print-directory compare
	$(PY) -m compare.tables $(A)

readme: verify verify-arm ## Fill the documents' tables with the figures that `make bench` prints
	@$(MAKE) --no-print-directory compare
	$(PY) -m compare.tables $(A) --write $(call tables)

screenshots: verify web $(A)/samples/index.json ## Take pictures of the page: the README's, and more in artifacts/screenshots
	@./bootstrap browser
	$(PY) -m tests.browser.screenshots $(A)/screenshots --readme web/screenshot.png

UV_COMPILE := .venv/uv/bin/uv pip compile --python-version 3.11 --python-platform x86_64-unknown-linux-gnu --no-annotate --no-header --quiet
# coreai-core has wheels for no older glibc than 2.34. pyproject.toml's overrides keep coremltools, which ExecuTorch asks for,
# from every lock; only its own is made without them (--no-config).
# What each container image installs: the name of its list, and its extras.
PACKAGES := service=http train=train export=train,export,onnx,tflite \
  keras=http,keras torch=http,torch onnx=http,onnx tflite=http,tflite openvino=http,openvino

# KServe's server needs tabulate, its client does not.
lock: pyproject.toml .venv/ready ## Resolve pyproject.toml into requirements.lock, a lock for each optional runtime, and the images' packages
	$(PY) -m pip install --quiet --upgrade --target .venv/uv uv
	$(UV_COMPILE) pyproject.toml --extra test --generate-hashes --no-emit-package torch --no-emit-package tabulate --no-emit-package rosetta-serve -o requirements.lock
	@for runtime in $(OPTIONAL); do \
	  $(subst unknown-linux-gnu,manylinux_2_34,$(UV_COMPILE)) pyproject.toml --extra $$runtime $$([ $$runtime != coreml ] || echo --no-config) -c requirements.lock --generate-hashes --no-emit-package rosetta-serve \
	    $$(sed -n 's/^\([a-z0-9._-]*\)==.*/--no-emit-package \1/p' requirements.lock) --no-emit-package torch -o requirements.$$runtime.lock; \
	done
	@echo "# Made by \`make lock\`: what each image installs, at the versions and hashes of the locks." >docker/packages
	@for list in $(PACKAGES); do \
	  echo "[$${list%=*}]"; \
	  $(UV_COMPILE) pyproject.toml $$(echo ",$${list#*=}" | sed 's/,/ --extra /g') -c requirements.lock -c requirements.openvino.lock --no-emit-package rosetta-serve | sed 's/==.*//'; \
	done >>docker/packages

help: ## List the targets and the variables
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-16s %s\n", $$1, $$2}' Makefile
	@echo
	@awk '/^## / {about = substr($$0, 4)} /^[A-Z_]+ *\?=/ {printf "%-21s %s\n", $$1 "=", about}' Makefile

clean: ## Remove artifacts and builds; keep the environment and the data (`git clean -fdX` removes these, too)
	rm -rf artifacts artifacts-* build web/dist .mypy_cache .ruff_cache .pytest_cache
