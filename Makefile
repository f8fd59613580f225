# Each target sets up what it needs; PYTHON chooses the interpreter (3.11 or later).
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test lint format bench report faults

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,pretrained]'
	touch $@

demo: install
	$(BIN)/python -m tdro_lightning +experiment=demo

test: install
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --cov --cov-report=
	$(BIN)/coverage report --fail-under=95 --include='tdro_lightning/dro/*,tdro_lightning/retrieval/*,tdro_lightning/data/*'

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install
	$(BIN)/python experiments/benchmarks/bench.py

faults: install
	$(BIN)/python experiments/faults/kill_loop.py
	$(BIN)/python -m pytest -m nightly

report: install
	$(BIN)/python -m tdro_lightning +experiment=report report.runs=[runs]
