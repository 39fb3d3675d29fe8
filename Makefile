# Everything runs in .venv, which the first target that needs it makes. It takes make,
# Python 3.11 to 3.13 with its headers (another than python3: make PYTHON=python3.12 ...) and a C++ compiler.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help sweep test check faults mutants lowest bench clean

help:  ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

sweep: .venv/installed  ## run the example sweep on the built-in scenes, about 15 minutes on 2 cores
	$(BIN)/semples-tune launch scenes

test: .venv/installed  ## run all tests (those that need a GPU only where there is one)
	$(BIN)/pytest
	$(BIN)/pytest -m "slow and not ray and not gpu"
	$(BIN)/pytest -n 0 -m "ray or gpu"

check: .venv/installed  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

faults: .venv/installed  ## put each known fault into a copy of the code: do the tests notice?
	$(BIN)/python benchmarks/faults.py --work .faults --json benchmarks/faults.json

mutants: .venv/installed  ## the same with small changes of any kind to the core modules, by mutmut (long)
	$(BIN)/python benchmarks/mutants.py --json benchmarks/mutants.json

# uv pip compile --resolution lowest-direct --all-extras pyproject.toml finds the versions; the direct ones are kept
.venv-lowest/installed: pyproject.toml lowest.txt
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install --quiet --upgrade pip
	.venv-lowest/bin/pip install --quiet --constraint lowest.txt --editable '.[test]'
	@touch $@

lowest: .venv-lowest/installed  ## run the quick tests with the lowest versions that are allowed
	.venv-lowest/bin/pytest

bench: .venv/installed  ## measure the figures of the README (long)
	$(BIN)/python benchmarks/scenes.py --json benchmarks/scenes.json
	$(BIN)/python benchmarks/sizes.py --json benchmarks/sizes.json
	$(BIN)/python benchmarks/reuse.py --json benchmarks/reuse.json
	$(BIN)/python benchmarks/search.py --json benchmarks/search.json --plot docs/search.png
	$(BIN)/python benchmarks/gate.py --json benchmarks/gate.json
	$(BIN)/python benchmarks/real.py --json benchmarks/real.json
	$(BIN)/python benchmarks/proxy.py --json benchmarks/proxy.json
	$(BIN)/python benchmarks/attack.py --json benchmarks/attack.json
	$(BIN)/python benchmarks/startup.py --json benchmarks/startup.json
	$(BIN)/python benchmarks/judge.py --json benchmarks/judge.json
	$(BIN)/python benchmarks/cluster_sim.py --json benchmarks/cluster_sim.json
	$(BIN)/python benchmarks/overhead.py --json benchmarks/overhead.json
	$(BIN)/python benchmarks/waiting.py --json benchmarks/waiting.json

clean:  ## remove the virtual environment and caches; runs and sweeps stay
	rm -rf .venv .venv-lowest .mypy_cache .ruff_cache .pytest_cache .hypothesis .faults mutants *.egg-info
