# Two commands for a fresh clone, with nothing but Python 3.11 or newer and git: `make demo` and `make test`.

VENV ?= .venv
OUT ?= out/demo
PYTHON ?= $(shell for python in python3 python3.11 python3.12 python3.13 python3.14 python; do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
PIP = $(VENV)/bin/python -m pip install --quiet --quiet --no-compile --disable-pip-version-check
READY = $(VENV)/.ready

.PHONY: demo test lint wheel clean

demo: $(READY)  ## learn the bundled example and show it on new designs
	$(VENV)/bin/tambour learn examples/reference.jpg -o $(OUT)/style.safetensors --report $(OUT)/report --overwrite

test: $(READY)  ## the whole suite
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile

lint: $(READY)  ## style, format and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

wheel: $(READY)  ## build it, install it into an empty environment, draw a design there
	rm -rf dist build/wheel
	$(PIP) hatchling
	$(VENV)/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	$(VENV)/bin/python -m venv build/wheel
	@# what the package needs is installed already: the empty environment borrows it, but not this checkout
	$(VENV)/bin/python .ci/check_wheel.py dist build/wheel

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "tambour needs Python 3.11 or newer with its venv module; none was found." \
		"Install one, or name it: make PYTHON=/path/to/python3.12"; exit 1; }
	@echo "Setting up $(VENV) with $$($(PYTHON) --version) (torch is large: this takes some minutes the first time)"
	$(PYTHON) -m venv $(VENV)
	$(PIP) --retries 2 torch==2.13.0
	$(PIP) -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) out dist build
