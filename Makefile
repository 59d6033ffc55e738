# Every target sets up what it needs in .venv by itself; a second call finds that done.

PYTHON ?= python3
PORT ?= 8789
TORCH ?=
VLM_MINUTES ?= 130
VLM_MORE_MINUTES ?= 42
FLOW_MINUTES ?= 80

VENV := .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
PY := $(BIN)/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable
# Minutes of killing; the checker that judges it is quick.
KILLING := $(filter-out %/test_history.py,$(wildcard tests/durability/test_*.py))
RECIPE := pyproject.toml constraints.txt

# numpy's second thread gains little on an idle machine and costs much on a busy one.
export OPENBLAS_NUM_THREADS ?= 1
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup run test check clients durability oracles test-gpu bench bench-gpu bench-queue train train-smoke ci clean

help: ## this list
	@echo "make TARGET, where TARGET is one of"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' Makefile

setup: $(VENV)/.with-test ## install everything that run, test and check need into .venv

run: $(VENV)/.with-default ## start the hub, draw a picture, describe it, serve until Ctrl-C (PORT=8789; ONCE=1 stops after the picture)
	@$(PY) examples/first_run.py --port $(PORT) $(if $(filter-out 0,$(ONCE)),--once)

test: $(VENV)/.with-test ## all tests of the default install (no torch)
	@$(PY) -m pytest --ignore=tests/clients --ignore=tests/gpu --ignore=tests/oracles --ignore=tests/torch --ignore=tests/training $(addprefix --ignore=,$(KILLING))

check: $(VENV)/.with-test ## style, types, layering
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy --strict src
	@$(PY) -m pytest -q tests/test_layers.py tests/test_project.py

clients: $(VENV)/.with-clients ## fal's official clients in Python, Node and a browser against a hub (installs Node and chromium where missing)
	@sh tests/clients/install.sh
	@$(PY) -m pytest tests/clients

durability: $(VENV)/.with-test ## hub and engine processes killed at every step and under load, a full disk, a broken one (root on Linux; installs strace)
	@sh tests/durability/install.sh
	@$(PY) -m pytest tests/durability

oracles: $(VENV)/.with-oracles train-smoke ## the torch and diffusers engines, and all models against torch, diffusers and transformers (installs torch)
	@$(PY) -m pytest tests/oracles tests/training tests/torch

.PHONY: chosen-torch
chosen-torch: $(VENV)/.with-oracles
	@$(if $(TORCH),$(PY) -m pip install --quiet --disable-pip-version-check --upgrade $(TORCH))

test-gpu: chosen-torch ## the engine on a GPU: graphs, memory, full shapes (TORCH="..." for pip, where another build of torch is needed)
	@$(PY) -m pytest -rs tests/gpu

bench-gpu: chosen-torch ## the engine's figures on a GPU, as JSON under bench/results/ (QUICK=1, ONLY=block,table)
	@$(PY) bench/engine_gpu.py $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY))

bench: $(VENV)/.with-default ## latency, memory and start-up figures; the last line is JSON
	@$(PY) bench/local.py

bench-queue: $(VENV)/.with-bench ## the durable queue, beside SAQ, procrastinate and PgQueuer where Redis and PostgreSQL run
	@$(PY) bench/queue.py

train: $(VENV)/.with-oracles ## make the shipped weights again from nothing, resumable, and measure them (hours on a CPU; installs torch)
	@$(PY) -m training.judge_train
	@$(PY) -m training.vlm_train --minutes $(VLM_MINUTES) --out training/out/vlm
	@$(PY) -m training.export training/out/vlm/vlm.pt training/out/scenes-vlm
	@$(PY) -m training.vlm_train --minutes $(VLM_MORE_MINUTES) --out training/out/vlm-pairs --start training/out/scenes-vlm \
	  --tower-share 0 --pairs 0.4 --noise 0.7 --boost 1.5 --probes 12 --muon-lr 1.2e-3 --adam-lr 1e-3 --seed 2
	@$(PY) -m training.export training/out/vlm-pairs/vlm.pt training/out/scenes-vlm-pairs
	@$(PY) -m training.vlm_train --minutes $(VLM_MORE_MINUTES) --out training/out/vlm-told --start training/out/scenes-vlm-pairs \
	  --tower-share 0 --pairs 0.3 --signs 0.17 --descriptions 0.35 --noise 0.9 --boost 1 --probes 8 --muon-lr 1.2e-3 --adam-lr 1e-3 \
	  --dense-weight 0.12 --question-weight 0.1 --seed 21
	@$(PY) -m training.export training/out/vlm-told/vlm.pt training/out/scenes-vlm-told
	@$(PY) -m training.vlm_train --minutes $(VLM_MORE_MINUTES) --out training/out/vlm-twins --start training/out/scenes-vlm-told \
	  --tower-share 0 --pairs 0.25 --signs 0.25 --twins 0.12 --descriptions 0.15 --noise 0.8 --boost 2 --probes 16 \
	  --muon-lr 1.1e-3 --adam-lr 9e-4 --dense-weight 0.2 --question-weight 0.1 --seed 22
	@$(PY) -m training.export training/out/vlm-twins/vlm.pt src/sensorium/models/scenes-vlm --earlier training/out/vlm-told/vlm.pt
	@$(PY) -m training.evaluate vlm --n 2000 --held-out --save training/out/vlm.json
	@$(PY) -m training.export training/out/vlm-twins/vlm.pt src/sensorium/models/scenes-vlm --earlier training/out/vlm-told/vlm.pt \
	  --measured training/out/vlm.json
	@$(PY) -m training.flow_train --minutes $(FLOW_MINUTES) --out training/out/flow
	@$(PY) -m training.flow_export training/out/flow/checkpoint.pt src/sensorium/models/scenes-flow
	@$(PY) -m training.evaluate flow --n 500 --held-out --save training/out/flow.json
	@$(PY) -m training.flow_export training/out/flow/checkpoint.pt src/sensorium/models/scenes-flow --measured training/out/flow.json
	@$(PY) -m training.report --vlm training/out/vlm.json --vlm-log $(foreach run,vlm vlm-pairs vlm-told vlm-twins,training/out/$(run)/log.jsonl) \
	  --flow training/out/flow.json --flow-log training/out/flow/log.jsonl

train-smoke: $(VENV)/.with-oracles ## a training of a few steps from end to end, in under a minute (installs torch)
	@$(PY) -m training.vlm_train --smoke
	@$(PY) -m training.flow_train --smoke

ci: ## what a change must pass before it lands
	@bash .ci/run

clean: ## remove .venv and what tools left behind
	rm -rf $(VENV) build dist out .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Sensorium needs Python 3.11 or newer, and $(PYTHON) is " \
	  + sys.version.split()[0] + ". Name another one: make $(MAKECMDGOALS) PYTHON=python3.12")'
	@echo "Setting up $(VENV) (once, about a minute) ..."
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.with-default: $(VENV)/.created $(RECIPE)
	@$(PIP) .
	@touch $@

$(VENV)/.with-test: $(VENV)/.created $(RECIPE)
	@$(PIP) ".[test]"
	@touch $@ $(VENV)/.with-default

$(VENV)/.with-clients: $(VENV)/.created $(RECIPE)
	@$(PIP) ".[test,clients]"
	@touch $@ $(VENV)/.with-default $(VENV)/.with-test

$(VENV)/.with-bench: $(VENV)/.created $(RECIPE)
	@$(PIP) ".[bench]"
	@touch $@ $(VENV)/.with-default

$(VENV)/.with-oracles: $(VENV)/.created $(RECIPE)
	@echo "Installing torch, diffusers and transformers into $(VENV) (once) ..."
	@$(PIP) ".[test,training,oracles,torch,diffusers]"
	@touch $@ $(VENV)/.with-default $(VENV)/.with-test
