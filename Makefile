# Every target makes what it needs: `make test` on a fresh clone creates .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VIDEO ?=
MASKS ?=
FIRST ?=
OUTPUT ?= demo_output
BUNDLE ?= output/gpu_bundle
D2PYTHON ?= $(BIN)/python

.PHONY: install demo test test-fast test-cuda gpu-bundle test-detectron2 lint docs bench bench-long doctor wheels test-wheels clean

install: $(VENV)/.installed

# sources of the kernels too: one built from older ones would go on without a word
SOURCES := $(wildcard vmt/ops/deform_attn/csrc/* cocoapi_hq/csrc/*)

$(VENV)/.installed: pyproject.toml setup.py constraints.txt cocoapi_hq/pyproject.toml cocoapi_hq/setup.py $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt --upgrade pip setuptools
	$(BIN)/python -m pip install -q -c constraints.txt -e ./cocoapi_hq -e ".[dev,cuda,bench]"
	touch $@

demo: install
	$(BIN)/python tools/make_demo.py --output $(OUTPUT) $(if $(VIDEO),--video "$(VIDEO)") \
		$(if $(MASKS),--masks "$(MASKS)") $(if $(FIRST),--first-number $(FIRST))

# two workers of one thread each; a file stays with one of them, and so do its fixtures
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

# what a change is tried with again and again: minutes, and no data beside the repository
test-fast: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"

# what needs a GPU; all other tests hide it, since their numbers are a CPU's
test-cuda: install
	$(BIN)/python -m pytest -q -m cuda

# what a GPU machine without a package index needs, in one folder (docs/howto/gpu.md)
gpu-bundle: install
	$(BIN)/python tools/make_gpu_bundle.py --output $(BUNDLE)

# the plug-in inside detectron2; D2PYTHON is of an environment that has it, and pytest
test-detectron2: install
	@$(D2PYTHON) -c "import detectron2" 2>/dev/null || { \
		echo "$(D2PYTHON) has no detectron2: docs/howto/detectron2.md says how to install it;" \
			"D2PYTHON=path/to/python takes another environment"; exit 1; }
	OMP_NUM_THREADS=1 $(D2PYTHON) -m pytest -q tests/plugins

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: install
	$(BIN)/python tools/make_docs.py

bench: install
	$(BIN)/python benchmarks/run_all.py

bench-long: install
	$(BIN)/python benchmarks/bench_long_video.py --frames 10000

doctor: install
	$(BIN)/vmt doctor

# what goes to a package index, into dist/
wheels: install
	$(BIN)/python -m pip install -q -c constraints.txt -e ./cocoapi_hq -e ".[release]"
	$(BIN)/python tools/make_wheels.py

# puts them into an empty environment, all else from the package index, and works there
test-wheels: wheels
	VMT_DIST=dist OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/tools/test_make_wheels.py

clean:
	rm -rf $(VENV) build dist *.egg-info cocoapi_hq/*.egg-info
