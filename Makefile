# make demo            digits, from images to a published model, its proof and a report, on any machine, without network
# make demo DATA=...   your images or a dataset, to a published model; RECIPE=... chooses another recipe
# make test            what CI runs
# make test-all        the long proofs as well

PYTHON ?= python3
BIN := .venv/bin

DATA ?= digits
RECIPE ?= $(if $(filter digits,$(DATA)),digits,cifar10-minutes)
DEMO := demo/$(notdir $(DATA:/=))
# The digits' model is so small that a second thread waits more than it works.
THREADS := $(if $(filter digits,$(RECIPE)),OMP_NUM_THREADS=1)
# Two thirds of the recipe's, so that the whole demo takes less than four minutes.
EPOCHS := $(if $(filter digits,$(RECIPE)),--epochs 100)
RUN = $(THREADS) $(BIN)/python
# Bytecode is written even where the environment says otherwise: hundreds of processes would compile the same sources.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/pytest

.PHONY: demo demo-encoder demo-digits demo-images test test-all clean

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

# All at once, and by a new pip: that of Python 3.11 takes five minutes to find out which s3fs and botocore go together.
.venv/installed-test: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch .venv/installed $@

demo: demo-$(if $(filter digits,$(DATA)),digits,images)
	@echo
	@echo "the model with its card:  $(DEMO)/model"
	@echo "the report, for a browser: $(DEMO)/report.html"

demo-encoder: .venv/installed
	$(BIN)/python data_pipeline/shard.py --source $(DATA) --out $(DEMO)/dataset
	$(RUN) pretrain/mae.py $(RECIPE) $(EPOCHS) --data $(DEMO)/dataset --out $(DEMO)/mae
	$(RUN) finetune/probe.py small --data $(DEMO)/dataset --init $(DEMO)/mae --out $(DEMO)/probe

demo-digits: demo-encoder
	$(RUN) finetune/benchmark.py digits-demo --data $(DEMO)/dataset --init $(DEMO)/mae --out $(DEMO)/benchmark
	$(RUN) finetune/publish.py --run $(DEMO)/benchmark/pretrained-all-seed0 --out $(DEMO)/model
	$(RUN) finetune/report.py $(DEMO)/mae $(DEMO)/probe $(DEMO)/benchmark $(DEMO)/benchmark/pretrained-all-seed0 \
		--out $(DEMO)/report.html
	@echo
	@echo "top-1 on 360 digits of other writers, in percent, over three seeds at 10 and 50 labels"
	@cat $(DEMO)/benchmark/benchmark.md

demo-images: demo-encoder
	$(RUN) finetune/classify.py $(RECIPE) --data $(DEMO)/dataset --init $(DEMO)/mae --out $(DEMO)/classifier
	$(RUN) finetune/publish.py --run $(DEMO)/classifier --out $(DEMO)/model
	$(RUN) finetune/report.py $(DEMO)/mae $(DEMO)/probe $(DEMO)/classifier --out $(DEMO)/report.html

test: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(PYTEST) --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-all: test
	$(PYTEST) tests/soak --timeout 3600 -s

clean:
	rm -rf demo .pytest_cache .ruff_cache .hypothesis .import_linter_cache
