# Two commands set everything up: `make train` and `make test`. Both make .venv first if it is missing.
PYTHON ?= python3
VENV := .venv
CORES := $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: train test test-fast test-oldest lesson lesson-page lesson-notebook lint format install clean

train: $(INSTALLED)
	$(BIN)/accelerate launch --num_processes 1 --num_cpu_threads_per_process $(CORES) training/train.py --config training/configs/digits.yaml --overwrite_output_dir

# Trains the Swiss roll and makes the lesson from it: texts, pictures and page, and beside them the notebook.
lesson: $(INSTALLED)
	$(BIN)/accelerate launch --num_processes 1 --num_cpu_threads_per_process $(CORES) training/train.py --config training/configs/swiss_roll.yaml --overwrite_output_dir
	$(MAKE) --jobs 2 lesson-page lesson-notebook

lesson-page:
	OMP_NUM_THREADS=1 $(BIN)/python lesson/build.py runs/swiss_roll

lesson-notebook:
	OMP_NUM_THREADS=1 $(BIN)/jupyter execute --inplace lesson/21-ddpm-2d.ipynb

# Tests of whole runs wait for their processes: half as many workers more than cores.
test: $(INSTALLED)
	$(BIN)/python -m pytest -n $$(( $(CORES) + ($(CORES) + 1) / 2 )) --dist loadfile --no-loadscope-reorder

# What a change of one module needs: no training runs, no processes.
test-fast: $(INSTALLED)
	$(BIN)/python -m pytest -n $(CORES) --dist loadfile --no-loadscope-reorder tests/unit tests/claims

# With the oldest diffusers and huggingface_hub that pyproject.toml allows.
test-oldest:
	test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	grep -vE '^(diffusers|huggingface_hub|httpx2|httpcore2)==' constraints.txt > .venv-oldest/constraints.txt
	.venv-oldest/bin/python -m pip install --quiet -c .venv-oldest/constraints.txt torch
	.venv-oldest/bin/python -m pip install --quiet -c .venv-oldest/constraints.txt -e '.[train]' diffusers==0.42.0 huggingface_hub==1.32.0 pytest hypothesis
	.venv-oldest/bin/python -m pytest tests/unit/hub tests/unit/test_pipeline_ddpm_from_scratch.py tests/runs/test_loading.py tests/runs/test_push.py tests/runs/test_space.py

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
