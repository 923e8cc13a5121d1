PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: train test check compat clean

train: $(VENV)/.installed ## the main job, with the default recipe
	$(BIN)/python -m hive.train $(ARGS)

test: $(VENV)/.installed check ## lint, types and all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(ARGS)

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/mypy

# torch first and by its exact version, so that pip takes the build that fits this machine.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "$(PYTHON) is $$($(PYTHON) --version), but HIVE needs Python 3.11 to 3.13: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

TRANSFORMERS_4 := $(CURDIR)/build/transformers-4

compat: $(VENV)/.installed ## the exported tower, loaded by transformers 4.57
	$(BIN)/python -m pip install --quiet --target $(TRANSFORMERS_4) --upgrade --no-deps transformers==4.57.6 huggingface_hub==0.36.2 \
		tokenizers==0.22.2 requests==2.32.5 urllib3==2.5.0 certifi charset_normalizer
	HIVE_TRANSFORMERS_4=$(TRANSFORMERS_4) $(BIN)/python -m pytest -m compat tests/hive/test_export.py

clean:
	rm -rf $(VENV) build .mypy_cache .ruff_cache .hypothesis
