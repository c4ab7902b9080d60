# make demo            digits, from images to an encoder and its pictures, on any machine, without network
# make demo DATA=...   the same on your images or on a dataset; RECIPE=... chooses another recipe
# make test            what CI runs
# make test-all        the long proofs as well

PYTHON ?= python3
BIN := .venv/bin

DATA ?= digits
RECIPE ?= $(if $(filter digits,$(DATA)),digits,cifar10-minutes)
DEMO := demo/$(notdir $(DATA:/=))
# The digits' model is so small that a second thread waits more than it works.
THREADS := $(if $(filter digits,$(RECIPE)),OMP_NUM_THREADS=1)

.PHONY: demo test test-all clean

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

demo: .venv/installed
	$(BIN)/python data_pipeline/shard.py --source $(DATA) --out $(DEMO)/dataset
	$(THREADS) $(BIN)/python pretrain/mae.py $(RECIPE) --data $(DEMO)/dataset --out $(DEMO)/run
	@echo "look at the pictures in $(DEMO)/run/figures; the encoder is $(DEMO)/run/encoder"

test: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/pytest

test-all: test
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/soak --timeout 3600 -s

clean:
	rm -rf demo .pytest_cache .ruff_cache .hypothesis .import_linter_cache
