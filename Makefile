PYTHON ?= python3
VENV := .venv
OLDEST := build/oldest
BIN := $(VENV)/bin
ARGS ?=

# Of the CUDA C++ backend: GPU generations, as ARCHS="86;90".
ARCHS ?= 80;86;89;90;120
CSRC := $(wildcard csrc/*.* csrc/emulator/*.*)
# $(call compile,ENVIRONMENT,FOLDER,GENERATIONS) compiles it in FOLDER, against the headers of the environment's torch.
torch = $$($(1)/bin/python -c "import sysconfig; print(sysconfig.get_path('platlib') + '/torch')")
compile = $(1)/bin/cmake -S . -B $(2) -DHIVE_TORCH="$(torch)" -DHIVE_CUDA_ARCHITECTURES="$(3)" \
	-DCMAKE_COMPILE_WARNING_AS_ERROR=ON && $(1)/bin/cmake --build $(2) --parallel 2
# $(call pytest,ENVIRONMENT)
pytest = OMP_NUM_THREADS=1 PATH="$(CURDIR)/$(1)/bin:$$PATH" $(1)/bin/python -m pytest --numprocesses 2 --dist loadfile $(ARGS)
# $(call environment,FOLDER,OLDEST,NEWEST) makes one, with a Python of these minor versions.
define environment
@$(PYTHON) -c 'import sys; sys.exit(not (3, $(2)) <= sys.version_info[:2] <= (3, $(3)))' || \
	{ echo "$(PYTHON) is $$($(PYTHON) --version), but this needs Python 3.$(2) to 3.$(3): make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
$(PYTHON) -m venv $(1)
endef

.PHONY: help train test test-oldest check aot native sanitize gpu compat libraries clean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s%s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo 'Flags go in ARGS: make train ARGS="--seed 1", make test ARGS="-k attention".'
	@echo "After make train or make test, in every new shell: source $(BIN)/activate"

train: $(VENV)/.installed ## pre-trains the demo's tower: 5 minutes on two CPU cores
	$(BIN)/python -m hive.train $(ARGS)

test: $(VENV)/.installed check ## lint, types and all tests
	$(call pytest,$(VENV))

# Its tests build the CUDA C++ backend's emulator. For nvcc one GPU generation will do: torch's headers are the same in
# all.
test-oldest: $(OLDEST)/.installed ## all tests with the oldest supported torch, triton, transformers and numpy
	@$(OLDEST)/bin/python --version
	@$(OLDEST)/bin/python -m pip list --format freeze | grep -E '^(torch|triton|transformers|numpy)='
	$(call pytest,$(OLDEST))
	if command -v nvcc; then $(call compile,$(OLDEST),build/native-oldest,86); \
		else echo "no nvcc here: the CUDA C++ backend was not compiled against the oldest torch"; fi

check: $(VENV)/.installed ## lint, types and the C++ format alone
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CSRC)

aot: $(VENV)/.installed ## every Triton kernel compiled for sm_86 and sm_90, without a GPU
	$(BIN)/python -m hive_kernels.aot --arch 86,90

native: $(VENV)/.installed ## the CUDA C++ backend, by nvcc, and what its kernels need; no GPU
	$(call compile,$(VENV),build/native,$(ARCHS))
	$(BIN)/cmake --install build/native --prefix .
	$(BIN)/python -m hive_kernels.native_check

# Needs a GPU and compute-sanitizer, which comes with the CUDA toolkit. Every tensor is allocated by itself, so that
# memcheck sees where it ends.
sanitize: ## the CUDA C++ backend's self-check under memcheck, racecheck and initcheck
	for tool in memcheck racecheck initcheck; do \
		PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool $$tool --error-exitcode 1 $(PYTHON) -m hive_kernels.selfcheck cuda || exit 1; done

# On a machine with a GPU whose own Python has torch with CUDA: installs nothing. docs/gpu.md says what it needs.
gpu: ## all that only a GPU can tell, in 8 minutes at most; without a GPU: ARGS=--rehearse PYTHON=.venv/bin/python
	$(PYTHON) -m benchmarks.gpu_run $(ARGS)

# torch first and by its exact version, so that pip takes the build that fits this machine.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(call environment,$(VENV),11,13)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

$(OLDEST)/.installed: pyproject.toml constraints-oldest.txt
	$(call environment,$(OLDEST),11,12)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-oldest.txt --editable '.[dev]'
	touch $@

TRANSFORMERS_4 := $(CURDIR)/build/transformers-4

compat: $(VENV)/.installed ## the exported tower, loaded by transformers 4.57
	$(BIN)/python -m pip install --quiet --target $(TRANSFORMERS_4) --upgrade --no-deps transformers==4.57.6 huggingface_hub==0.36.2 \
		tokenizers==0.22.2 requests==2.32.5 urllib3==2.5.0 certifi charset_normalizer
	HIVE_TRANSFORMERS_4=$(TRANSFORMERS_4) $(BIN)/python -m pytest -m compat tests/hive/export/test_tower.py

LIBRARIES := build/libraries

libraries: $(LIBRARIES)/.installed ## the towers exported for timm and open_clip, loaded by these libraries
	$(LIBRARIES)/bin/python -m pytest -m libraries tests/hive/export

# Not with constraints.txt: torchvision, which both libraries import, has to be built for the torch beside it.
$(LIBRARIES)/.installed: pyproject.toml
	$(call environment,$(LIBRARIES),11,13)
	$(LIBRARIES)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,timm,open-clip]'
	touch $@

clean: ## removes the environment and everything built, but no run
	rm -rf $(VENV) build hive_kernels/lib .mypy_cache .ruff_cache .hypothesis
