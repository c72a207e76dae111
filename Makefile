# The doors. Each sets up .venv by itself; nothing needs to be installed by hand but Python 3.11+.
PYTHON ?= python3
BIN    := .venv/bin
READY  := .venv/.ready

.PHONY: help demo test lint bench bench-models bench-faults docs clean

help:
	@sed -n 's/^\([a-z-]*\):.*## /\1: /p' Makefile

demo: $(READY)            ## train and measure a cascade on the embedded data; ends with the funnel
	$(BIN)/twotower run recipes/demo.yaml

test: $(READY)            ## all tests, or ARGS="-k splits"; those on real data run when TWOTOWER_DATA is set
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto $(ARGS)

lint: $(READY)            ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)           ## full-size measurements (hours); results land in benchmarks/results
	$(BIN)/pip install -q -c constraints.txt -e '.[dev,bench]'
	$(BIN)/python -m benchmarks

bench-faults: $(READY)    ## kill -9, 200 times each, while bundles are built and items are changed
	$(BIN)/python -m benchmarks.bundle_faults
	$(BIN)/python -m benchmarks.item_faults

bench-models: $(READY)    ## search, train and measure all pre-ranking models; docs/benchmarks says what came out
	$(BIN)/pip install -q -c constraints.txt -e '.[dev,bench]'
	$(BIN)/python -m benchmarks.pre_ranking

docs: $(READY)            ## run every code block of README.md and docs/; check the table of recipe keys
	$(BIN)/python docs/make_recipe_reference.py --check
	$(BIN)/python tests/run_code_blocks.py README.md docs

clean:                    ## remove the environment and all runs
	rm -rf .venv runs

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $(READY)
