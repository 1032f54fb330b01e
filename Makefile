# Two commands do everything, set-up included:
#   make train   trains every task on the embedded world, then draws runs/t2i_multitask/evaluation/samples.png
#   make test    runs the linters and the whole suite
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := runs/t2i_multitask
CONFIG := configs/t2i_multitask.py

.PHONY: train test lint clean

train: $(VENV)/.installed
	$(BIN)/python -m onediff_jax.main --config=$(CONFIG) --workdir=$(RUN)
	$(BIN)/python -m onediff_jax.evaluate --source=$(RUN) --out=$(RUN)/evaluation

test: lint
	$(BIN)/python -m pytest -n 2 --dist=worksteal --durations=25

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

$(VENV)/.installed: requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -e .
	touch $@

# torch first and alone, so that pip takes the build that this machine's index offers for the CPU.
$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) runs
