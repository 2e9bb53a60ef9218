# dbsec: a fresh machine needs python3 (3.11 or newer, with venv) and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --no-input
LOCKS  := core app lab migrations alembic vault aws pkcs11 orm backup mysql pg18 screens demo test

.PHONY: demo drill test api rules guardrails lint bench setup setup-test setup-extra lock clean help

help:
	@echo "make demo         bring up real servers, attack, harden, attack again, write dbsec-report/"
	@echo "make drill        rehearse restores on real servers, of dbsec's backups and of pgBackRest's; into dbsec-report-drill/"
	@echo "make test         every test (DBSEC_REQUIRE=all: a missing server is an error)"
	@echo "make lint         ruff, mypy and the import contract"
	@echo "make bench        every benchmark with --quick"
	@echo "make setup        the virtual environment alone"
	@echo "make setup-extra  Debian's servers (PostgreSQL 15, PgBouncer, MariaDB, SoftHSM, pgBackRest, Chromium, cryptsetup, gocryptfs)"
	@echo "make api          write docs/api.txt again"
	@echo "make rules        write docs/rules/ again"
	@echo "make guardrails   write db/migrations/guardrails.sql again"
	@echo "make lock         compile locks/ again"
	@echo "make clean        stop the lab and delete what was made here, but for reports and the key that signs them"

demo: setup
	@$(BIN)/dbsec demo $(DEMO)

drill: setup setup-extra
	@$(BIN)/python scripts/drill.py

test: setup-test setup-extra
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder $(or $(TESTS),tests/acceptance tests/integration tests/attack tests/contract tests/docs tests/arch tests/unit)

lint: setup-test
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: setup-test
	@for b in benchmarks/[a-z]*.py; do echo "== $$b"; $(BIN)/python $$b --quick --json || exit; done

setup: $(VENV)/.demo.stamp

setup-test: $(VENV)/.test.stamp

setup-extra:
	@sh scripts/setup-extra.sh

# One recipe for both environments; the stamp is newer than its lock, so a second call installs nothing.
$(VENV)/.%.stamp: locks/%.txt pyproject.toml | $(VENV)/bin/python
	@echo "installing locks/$*.txt into $(VENV)"
	@$(PIP) install --quiet --require-hashes -r locks/$*.txt
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m compileall -q src app
	@touch $@

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "dbsec needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "python3 -m venv failed: on Debian, apt-get install python3-venv" >&2; exit 2; }

api: setup-test
	@$(BIN)/python scripts/api.py

rules: setup-test
	@$(BIN)/python scripts/rules.py

guardrails: setup-test
	@$(BIN)/python scripts/guardrails.py

lock:
	@sh scripts/lock.sh $(LOCKS)

clean:
	@for lab in lab demo; do test ! -x $(BIN)/dbsec || $(BIN)/dbsec lab down --name $$lab || exit; done
	@find .dbsec -mindepth 1 -maxdepth 1 ! -name keys -exec rm -rf {} + 2>/dev/null || true
	@rm -rf $(VENV) .extra .benchmarks dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
