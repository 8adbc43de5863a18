# Each target sets up what it needs in .venv, once; again when pyproject.toml or constraints.txt change.
PYTHON ?= python3
BIN := .venv/bin
HEADS ?= baseline,recurrent,cnn

.DEFAULT_GOAL := help
.PHONY: help run test lint fix bench docs clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile

run: .venv/.installed  ## train the three heads on the embedded demo and print the table
	$(BIN)/benchkit run --heads $(HEADS)
	@echo; echo "What the encoder is worth: the first phase again, beside labels shuffled and weights at random"
	$(BIN)/benchkit run --heads $(HEADS) --phases pretrain --controls --out results/runs/demo-controls

test: .venv/.installed-dev  ## all tests; TESTS=tests/test_x.py for some
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --maxschedchunk 1 $(TESTS)

lint: .venv/.installed-dev  ## style, format, types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy benchkit plugins tests

fix: .venv/.installed-dev  ## what ruff can repair, then format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: .venv/.installed-dev .venv/.installed-bench  ## speed of the parts, against this machine's last run
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/run.py

docs: .venv/.installed  ## what is generated: command line, hooks, the README's tables
	$(BIN)/python docs/build.py

clean:  ## everything that can be made again, results and feature stores excepted
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .benchmarks build dist

.venv/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing benchkit into .venv"
	@$(BIN)/python -m pip install -qq -c constraints.txt -e '.[plots]'
	@touch $@

.venv/.installed-%: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing benchkit[$*] into .venv"
	@$(BIN)/python -m pip install -qq -c constraints.txt -e '.[$*]'
	@touch $@

$(BIN)/python:
	@$(PYTHON) -m venv .venv
