.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
TEXTS ?= ../shared/data/novels

help:  ## explain the targets
	@grep -hE '^[a-z_-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

install: $(STAMP)  ## make .venv and install the project with its tools

demo: $(STAMP)  ## extract the bundled CLIP's representations, train VL-SAE on them, show the result
	$(BIN)/vlsae train model=clip

test: $(STAMP)  ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -n 2 --dist loadfile --no-loadscope-reorder

format: $(STAMP)  ## rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(STAMP)  ## check format and style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)  ## check types
	$(BIN)/mypy

audit: $(STAMP)  ## look for known vulnerabilities of the packages, where their data can be reached
	$(BIN)/python scripts/audit.py

check: lint types audit test  ## lint, types, audit and tests

bench: $(STAMP)  ## measure the hot paths beside their peers
	$(BIN)/python benchmarks/extract.py
	$(BIN)/python benchmarks/dictionary_step.py --peers .venv/peers
	$(BIN)/python benchmarks/probe.py speed

stress: $(STAMP)  ## three quarters of an hour: memory over long work, drawn for docs/scaling.md; fifty kills; the tests of many processes
	$(BIN)/python scripts/stress.py memory --minutes 30 --out docs/figures
	$(BIN)/python scripts/stress.py kills --count 50 --seed 0
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -m stress

reproduce: $(STAMP)  ## run the experiments behind docs/claims.md; DATA=FOLDER holds the data sets that some need
	$(BIN)/python scripts/reproduce.py all $(if $(DATA),--data $(DATA))

docs: $(STAMP)  ## make the pages of docs/ a site in site/
	$(BIN)/python -m mkdocs build --quiet
	@echo site/index.html

bundled: $(STAMP)  ## train the bundled models again; TEXTS=FOLDER holds the two novels
	$(BIN)/python scripts/make_bundled.py
	$(BIN)/python scripts/make_bundled_texts.py
	$(BIN)/python scripts/make_bundled_lm.py $(TEXTS)
	$(BIN)/python scripts/make_bundled_llava.py

.PHONY: help install demo test format lint types audit check bench stress docs bundled reproduce
