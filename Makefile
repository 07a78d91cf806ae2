# Every target sets up what it needs in .venv; none needs a GPU.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test test-slow lint bench bench-busy bench-classes bench-digits bench-end-to-end bench-gpu bench-large \
	bench-processes gpu-check gpu-results reliability clean

setup: $(READY)

# torch first and alone: the pinned version decides the build, nothing later may replace it
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

demo: setup
	rm -rf runs/demo
	$(BIN)/ddistill distill digits --recipe idc-ma --ipc 1 --out runs/demo

# one process a core, one thread a process: threads that share a busy core wait for each other at every operator
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow and not gpu" --cov=ddistill --cov-report=term

test-slow: setup
	$(BIN)/python -m pytest -m "slow"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python benchmarks/methods.py --save
	$(BIN)/python benchmarks/hot_path.py --growth --save

bench-end-to-end: setup
	$(BIN)/python benchmarks/end_to_end.py cifar10 --out runs/end-to-end

bench-digits: setup
	$(BIN)/python benchmarks/digits_all.py runs/digits-all

bench-gpu: setup
	$(BIN)/python benchmarks/hot_path.py --device cuda --growth --save

# these two ask for nothing but torch and the other packages: no set-up, no network. DATA is CIFAR-10, OUT a folder
gpu-check:
	PYTHONPATH=. $(or $(wildcard $(BIN)/python),$(PYTHON)) benchmarks/gpu_check.py $(or $(OUT),runs/gpu-check) $(if $(DATA),--data $(DATA)) $(if $(TOY),--toy)

gpu-results:
	PYTHONPATH=. $(or $(wildcard $(BIN)/python),$(PYTHON)) benchmarks/gpu_results.py $(DATA) --out $(or $(OUT),runs/reproduce)

bench-busy: setup
	$(BIN)/python benchmarks/busy_machine.py --save

bench-large: setup
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/large_data.py runs/large --save

# CIFAR10 and CIFAR100: where they are; generated images stand for a set that is not given
bench-classes: setup
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/classes.py runs/classes --save $(if $(CIFAR10),--cifar10 $(CIFAR10)) $(if $(CIFAR100),--cifar100 $(CIFAR100))

bench-processes: setup
	$(BIN)/python benchmarks/several_processes.py --save

reliability: setup
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/reliability.py runs/reliability

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache
