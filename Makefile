# What a developer needs. Each target makes its own virtual environment first; Python 3.11+ and make are enough.

PYTHON ?= python3
VENV ?= .venv
# Where the larger test data lies, for the tests and benchmarks that can use it; what a clone needs is in tests/data.
ULLAGE_SHARED ?= ../shared
export ULLAGE_SHARED

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help compiled demo test torture powerloss protos schema bench bench-peers bench-cri cri-versions bench-unpack bench-serving bench-upgrade compare lint format venv clean

help:
	@echo 'make demo    see ullage work: builds, serves, pulls, counts and removes images, with no internet'
	@echo 'make test    run the tests'
	@echo 'make torture kill, fail and attack the store for as long as it takes: every kill point, ROUNDS=2000 rounds'
	@echo 'make powerloss  cut the power of a User-Mode Linux at every flush (tests/powerloss/README.md)'
	@echo 'make schema  write head.sql and the golden schema anew, of what the revisions make'
	@echo 'make protos  compile the messages of the CRI server, after a change to a .proto'
	@echo 'make bench   the engine, pulls, crowds and start-up, as ratios (docs/performance.md); BENCH="--small" for a look'
	@echo 'make bench-peers  the same, beside skopeo, containerd, podman, umoci'
	@echo 'make bench-serving  how fast a store is served, pushed, copied, beside docker-registry and skopeo'
	@echo 'make bench-upgrade  what bringing a store of a million blobs to this release costs'
	@echo 'make bench-unpack  how fast layers become directories, beside GNU tar, umoci, containerd'
	@echo 'make compare  real images unpacked by ullage, umoci and GNU tar, file by file: IMAGES="LAYOUT:TAG ..."'
	@echo 'make bench-cri     64 clients at the CRI server for a minute: CLIENTS=1000 SECONDS=20'
	@echo 'make cri-versions  the tests of the CRI server with the releases of gRPC and protobuf that it promises'
	@echo 'make lint    ruff, mypy and the floors'
	@echo 'make format  let ruff lay the code out'
	@echo 'make venv    make $(VENV) with all the tools, and nothing else'
	@echo 'make clean   remove what the others made'

demo: $(VENV)/.installed
	@rm -rf .demo
	@$(BIN)/ullage demo --keep .demo

# The tests and the benchmarks start the command by the thousand: none of them is to compile what it loads. (An
# environment may say that Python is not to keep what it compiled.)
compiled: $(VENV)/.developing
	@$(BIN)/python -m compileall -q src migrations

# Two for each core: half of a test's time is spent waiting for disks and for other processes.
# Whoever is done early takes from the others what is long.
test: compiled
	$(BIN)/python -m pytest -n $$((2 * $$(nproc))) --dist worksteal

# What make test does by the hundred, by the thousand.
torture: compiled
	ULLAGE_TORTURE=1 ULLAGE_FUZZ_STATEMENTS=$(or $(STATEMENTS),200000) \
	    $(BIN)/python -m pytest -n auto --timeout 3600 tests/crash tests/property tests/store/test_sql_fuzz.py
	$(BIN)/python tests/crash/deaths.py --rounds $(or $(ROUNDS),2000) --seed $(or $(SEED),1)
	$(BIN)/python tests/crash/torture.py --rounds 200 --seed $(or $(SEED),1)

powerloss: $(VENV)/.developing
	$(BIN)/python -m pytest -m powerloss --timeout 1800 tests/powerloss

protos: $(VENV)/.developing
	$(BIN)/python -m grpc_tools.protoc --proto_path src/ullage/cri \
	    --descriptor_set_out src/ullage/cri/protos.binpb cri.proto health.proto

schema: $(VENV)/.developing
	PYTHONPATH=tests $(BIN)/python -m support.schema

# Ratios in one run, not seconds. BENCH="--small" is a look, BENCH="engine startup" are two of them.
bench: compiled
	$(BIN)/python benchmarks $(BENCH)

bench-peers: compiled
	$(BIN)/python benchmarks --peers $(BENCH)

bench-serving: compiled
	$(BIN)/python benchmarks/disk.py $(BIN)/python benchmarks/serving.py $(BENCH)

# BENCH="small --files 20000" is less of it; benchmarks/unpack.py --help has the rest.
bench-unpack: compiled
	$(BIN)/python benchmarks/disk.py $(BIN)/python benchmarks/unpack.py $(BENCH)

bench-upgrade: compiled
	$(BIN)/python benchmarks/disk.py $(BIN)/python benchmarks/upgrade.py $(BENCH)

compare: $(VENV)/.developing
	$(BIN)/python benchmarks/compare_unpack.py $(IMAGES)

bench-cri: compiled
	$(BIN)/python benchmarks/cri_load.py --clients $(or $(CLIENTS),64) --seconds $(or $(SECONDS),60)

# The oldest of each, and each major release of protobuf since.
cri-versions: $(VENV)/.developing
	@set -e; for pair in 1.60.0:4.25.3 1.70.0:5.29.5 1.85.1:6.33.0; do \
	    place=$$(mktemp -d); \
	    $(PIP) install --no-deps --target $$place grpcio==$${pair%:*} protobuf==$${pair#*:} typing_extensions; \
	    echo "grpcio $${pair%:*}, protobuf $${pair#*:}"; \
	    PYTHONPATH=$$place $(BIN)/python -m pytest -q -n auto tests/cri -k 'not proto_files_say'; \
	    rm -rf $$place; \
	done

lint: $(VENV)/.developing
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.developing
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

venv: $(VENV)/.developing

clean:
	rm -rf $(VENV) .demo build dist src/*.egg-info *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps are newer than pyproject.toml, or it is installed again.
$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=…")'
	@echo 'installing ullage into $(VENV) …'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --upgrade 'pip>=25.1'
	@$(PIP) install --editable .
	@touch $@

$(VENV)/.developing: $(VENV)/.installed
	@echo 'installing the tools into $(VENV) …'
	@$(PIP) install --group dev
	@touch $@
