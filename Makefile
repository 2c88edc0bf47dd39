# Each target does its own set-up: a virtual environment in .venv with the pinned versions of constraints.txt.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
RUN := $(VENV)/bin/
PIP := $(RUN)python -m pip install --quiet --disable-pip-version-check --progress-bar on -c constraints.txt
ARGS ?=

.PHONY: help demo test lint bench bench-learning soak effect takeover faults clean train-sentiment train-student bench-sentiment

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(VENV)/base: pyproject.toml constraints.txt
	@echo "== virtual environment and dependencies (minutes at the first time, most of it downloads)"
	@$(PYTHON) -c 'import sys; sys.exit("nudge needs Python 3.11 or newer: make PYTHON=/path/to/python3.11") if sys.version_info < (3, 11) else None'
	@test -x $(RUN)python || $(PYTHON) -m venv $(VENV)
	@$(PIP) -e .
	@touch $@

$(VENV)/dev: $(VENV)/base
	@echo "== tools for tests and training: torch is large"
	@$(PIP) -e '.[dev,transformers,trees]'
	@touch $@

demo: $(VENV)/base ## a broker, a Redis, a worker and a real event log, live; ARGS="--events 50000 --json"
	@$(RUN)nudge demo $(ARGS)

test: lint ## linters, types, unit and integration tests
	@echo "== tests"
	@$(RUN)pytest -n $(or $(PROCESSES),3) --dist worksteal --durations=15 $(ARGS)

lint: $(VENV)/dev ## format, linter, types, import contract
	@echo "== lint"
	@$(RUN)ruff format --check --quiet .
	@$(RUN)ruff check --quiet .
	@$(RUN)mypy
	@$(RUN)lint-imports

bench: $(VENV)/dev ## events a second end to end, beside its floor and an idiomatic Faust app
	@$(RUN)python -m tests.benchmarks.throughput $(ARGS)

bench-learning: $(VENV)/dev ## log-loss and calibration on real tables and late labels; ARGS="elec2 telco"
	@OMP_NUM_THREADS=1 $(RUN)python -m tests.benchmarks.learning $(ARGS)

soak: $(VENV)/dev ## an hour at half load: does memory stay flat, and what is in Redis; ARGS="--minutes 10"
	@$(RUN)python -m tests.benchmarks.soak $(ARGS)

effect: $(VENV)/dev ## how long a label takes until every worker scores with it; needs KAFKA_HOME, or ARGS="--broker embedded"
	@$(RUN)python -m tests.benchmarks.effect $(ARGS)

takeover: $(VENV)/dev ## how long partitions stand still when a worker is killed; needs KAFKA_HOME, or ARGS="--broker embedded"
	@$(RUN)python -m tests.benchmarks.takeover $(ARGS)

faults: $(VENV)/dev ## workers, broker and Redis killed by seeded plans; SEEDS=20 | SEED=17, BROKER=embedded|kafka, MUTANT=...
	@$(RUN)python -m tests.faults --seeds $(or $(SEEDS),20) $(if $(SEED),--seed $(SEED)) $(if $(BROKER),--broker $(BROKER)) \
		$(if $(MUTANT),--mutant $(MUTANT)) $(ARGS)

train-sentiment: train-student ## make the sentiment models again, into OUT=FOLDER; needs NUDGE_DATA and an hour
	@$(RUN)python -m models.sentiment.train --out $(or $(OUT),build/sentiment) $(ARGS)

train-student: $(VENV)/dev ## make the student of all languages again, into OUT=FOLDER; needs NUDGE_DATA and minutes
	@OMP_NUM_THREADS=1 $(RUN)python -m models.sentiment.student_train --out $(or $(OUT),build/sentiment)/student_weights

bench-sentiment: $(VENV)/dev ## accuracy, calibration and speed of each path on every test split, into docs/sentiment.md; needs NUDGE_DATA
	@OMP_NUM_THREADS=1 $(RUN)python -m tests.benchmarks.sentiment --write docs/sentiment.md $(ARGS)

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
