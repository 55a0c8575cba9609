# Two commands set everything up: `make train` and `make test`. Both make .venv first if it is missing.
PYTHON ?= python3
VENV := .venv
CORES := $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: train test lint format install clean

train: $(INSTALLED)
	$(BIN)/accelerate launch --num_processes 1 --num_cpu_threads_per_process $(CORES) training/train.py --config training/configs/digits.yaml --overwrite_output_dir

test: $(INSTALLED)
	$(BIN)/python -m pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs
