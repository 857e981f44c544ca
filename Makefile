# Two commands: `make demo` shows the whole way on this machine, `make test` runs the tests.
# Both create .venv; remove the folder to start over.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-pythons test-faults test-attack test-upstream test-engines test-clients test-windows lint format reference clean

demo: $(VENV)/.ready
	$(BIN)/llava-pack demo

# Python keeps what it compiles, apart from the sources: compiling anew is a third of many tests.
test: export PYTHONDONTWRITEBYTECODE :=
test: export PYTHONPYCACHEPREFIX := $(CURDIR)/$(VENV)/pycache
# Torch's threads that wait for work leave the cores to the tests beside them: a fifth of their time.
test: export OMP_WAIT_POLICY := PASSIVE
# One thread for each engine, as several tests run beside each other: a fifth of the processors' time.
test: export OMP_NUM_THREADS := 1
# The long files of tests come first (tests/conftest.py), and in that order they are handed out. Three
# at a time, for two cores: many wait for a server.
test: $(VENV)/.ready
	$(MAKE) --no-print-directory -j2 lint test-pythons
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

# The packages without torch, on the other Pythons that this machine has.
test-pythons: $(VENV)/.ready
	$(BIN)/python .ci/pythons.py 3.12 3.13

# The demo bundle, killed in the middle of an upgrade and resumed: minutes.
test-faults: $(VENV)/.ready
	$(BIN)/python -m pytest -n 0 tests/faults/kill_demo.py

# Thousands of tries at what crosses the gap and at what serves, each with the seed that it prints:
# minutes. ATTACK_SEED repeats a run.
test-attack: $(VENV)/.ready
	$(BIN)/python -m pytest -n 0 -s tests/attack/*.py

# LLaVA's own code, in an environment of its own: records its answers again and compares.
test-upstream: $(VENV)/.ready
	$(BIN)/python tests/upstream/run.py
	$(BIN)/python tests/upstream/protocol.py
	$(BIN)/python tests/upstream/serving.py
	$(BIN)/python tests/upstream/symptoms.py

# vLLM and SGLang on the CPU, installed from a bundle and served where no network is. The first run
# downloads some 1 GB; each takes a quarter of an hour.
test-engines: $(VENV)/.ready
	$(BIN)/python tests/engines/run.py

# Real clients and proxies, each in an environment of its own, with the configurations of the pages.
test-clients: $(VENV)/.ready
	$(BIN)/python tests/clients/run.py

# The laptop's side on Windows: real CPythons for Windows under wine, in .venv-windows.
test-windows: $(VENV)/.ready
	$(BIN)/python tests/windows/run.py

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.ready: pyproject.toml .ci/environment.py
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(f"llava-pack needs Python 3.11 or newer, got {v[0]}.{v[1]}: run make PYTHON=/path/to/python3.11" if v < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9'
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[dev]'
	$(BIN)/python .ci/environment.py
	touch $@

# Pages that are made from the code.
reference: $(VENV)/.ready
	$(BIN)/python -m typer llava_pack.cli.app utils docs --name llava-pack --output docs/reference/cli.md
	$(BIN)/python .ci/known_failures.py
	$(BIN)/python .ci/request_fields.py

clean:
	rm -rf $(VENV) .venv-windows demo-run dist .mypy_cache .ruff_cache
