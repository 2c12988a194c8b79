# Two commands set up everything: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
HOME_DEMO ?= $(CURDIR)/.demo
PORT ?= 7860

.PHONY: demo test serve check bench test-slow test-cluster faults faults-outside faults-inside clean

demo: $(VENV)/.ready
	@$(BIN)/winnow demo --home "$(HOME_DEMO)" --port $(PORT)

serve: $(VENV)/.ready
	@$(BIN)/winnow serve

test: $(VENV)/.ready-dev
	@$(BIN)/python -m pytest

test-slow: $(VENV)/.ready-dev
	@$(BIN)/python -m pytest -m slow

# What is promised, under faults: two halves side by side, about twenty minutes on two cores. tests/test_faults_table.py says which
# test keeps which promise.
OUTSIDE = tests/test_faults_browser.py tests/test_faults_web.py tests/test_faults_jobs.py tests/test_faults_gate.py tests/test_kill_web.py \
  tests/test_jobs.py tests/test_outbound.py tests/test_roots.py tests/test_app.py
INSIDE = $(filter-out $(OUTSIDE),$(wildcard tests/test_faults_*.py)) tests/test_ledger.py tests/test_writer.py tests/test_migrate.py \
  tests/test_limited.py tests/test_auth.py tests/test_security.py
faults: $(VENV)/.ready-dev
	@$(MAKE) --no-print-directory -j2 faults-outside faults-inside
faults-outside:
	@$(BIN)/python -m pytest -m "not gpu" --durations=10 $(OUTSIDE)
faults-inside:
	@$(BIN)/python -m pytest -m "not gpu" --durations=10 $(INSIDE)

# Several machines: what a store promises on PostgreSQL as on a file, and a cluster of processes with real servers.
STORE = tests/test_postgres.py tests/test_ledger.py tests/test_writer.py tests/test_review.py tests/test_people.py tests/test_columns.py \
  tests/test_edits.py tests/test_snapshots.py tests/test_audits.py tests/test_policies.py tests/test_import.py tests/test_grid_api.py \
  tests/test_lab_api.py tests/test_shared_blobs.py
test-cluster: $(VENV)/.ready-dev
	@command -v redis-server >/dev/null && ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || \
	  { [ "$$(id -u)" = 0 ] && apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql redis-server >/dev/null; } || \
	  { echo "Install the Debian packages postgresql and redis-server first."; exit 1; }
	@WINNOW_TEST_DATABASE=postgresql $(BIN)/python -m pytest $(STORE)
	@$(BIN)/python -m pytest -m cluster tests/test_cluster.py

check: $(VENV)/.ready-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(VENV)/.ready-dev
	@$(BIN)/winnow bench import --json
	@$(BIN)/winnow bench review --json

clean:
	rm -rf $(VENV) .demo

# Some packages ask for opencv-python, which needs a graphics library that bare containers lack; the headless build of the
# same version takes its place.
HEADLESS = $(BIN)/pip uninstall --quiet --yes opencv-python && \
  $(BIN)/pip install --quiet --constraint constraints.txt --force-reinstall --no-deps opencv-python-headless

$(VENV)/.ready: pyproject.toml constraints.txt
	@echo "Installing Winnow into $(VENV): about 5 GB, a few minutes ..."
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "Winnow needs Python 3.11 to 3.13; name one with: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --upgrade "pip>=25"
	@$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	@$(HEADLESS)
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	@echo "Installing what the tests need ..."
	@$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@$(HEADLESS)
	@command -v chromium >/dev/null || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; } || \
	  echo "Chromium is not installed: the browser tests will be skipped."
	@touch $@
