# The commands that people look for. Each does its own set-up on a fresh Debian 12 with python3, make and root.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.SUFFIXES:

PYTHON ?= /usr/bin/python3
PREFIX ?= /usr/local
VENV := .venv
BIN := $(VENV)/bin
STAMPS := build/stamps
# Directories too: their times tell of files that are gone.
SOURCES := pyproject.toml meson.build $(shell find interceptor runtime policies -not -name '__pycache__' -not -path '*/__pycache__/*')
PIP := $(BIN)/python -m pip --disable-pip-version-check
LIBRARY := $(PREFIX)/lib/interceptor

.PHONY: build demo test lint bench attack soak machine fuzz docs install uninstall clean
.NOTPARALLEL:

build: $(STAMPS)/install

# Runs a system container with an engine inside, and shows which of its calls were intercepted.
demo: build $(STAMPS)/images.apt
	./demo

test: build $(STAMPS)/images.apt $(STAMPS)/tests.apt
	$(BIN)/pytest

lint: build
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m interceptor.docgen --check

# Every number in the documents comes out of here; BENCH=--quick only tells whether it runs.
bench: build $(STAMPS)/images.apt
	@for b in bench/*.py; do case $$b in bench/_*) ;; *) echo "== $$b"; $(BIN)/python $$b $(BENCH) || exit 1;; esac; done

# Every race against the decision of a call, ROUNDS times each, and the known ways out of containers.
ROUNDS ?= 1000000
attack: build $(STAMPS)/images.apt $(STAMPS)/tests.apt
	INTERCEPTOR_ATTACK_ROUNDS=$(ROUNDS) $(BIN)/pytest -s tests/attack

# Supervisors are killed under load for minutes, and containers come and go by the thousand: nothing fails, nothing grows.
# `make test` has the same for seconds.
soak: build $(STAMPS)/images.apt $(STAMPS)/tests.apt
	INTERCEPTOR_SOAK_SECONDS=$(DURATION) INTERCEPTOR_SOAK_BOXES=$(BOXES) INTERCEPTOR_SOAK_CYCLES=$(CYCLES) INTERCEPTOR_SOAK_ISOLATION=$(ISOLATION) \
		INTERCEPTOR_SOAK_SYSTEMS=$(SYSTEMS) INTERCEPTOR_SOAK_INNER=$(INNER) INTERCEPTOR_SOAK_INNER_SECONDS=$(INNER_SECONDS) \
		$(BIN)/pytest -s tests/soak

DURATION ?= 300
BOXES ?= 10
CYCLES ?= 2000
# Seconds for each kind of container that misbehaves beside others.
ISOLATION ?= 60
# System containers, inner containers at once in each, and for how long: with supervisors killed, and without.
SYSTEMS ?= 10
INNER ?= 60
INNER_SECONDS ?= 1200

# Everything that reads what others wrote, by coverage, FUZZ_SECONDS each; FUZZ=NAME for one of them; then, in a
# container, FUZZ_CALLS intercepted calls with random arguments, half with each runtime (INTERCEPTOR_FUZZ_SEED chooses them).
fuzz: build $(STAMPS)/images.apt $(STAMPS)/tests.apt $(STAMPS)/fuzz.apt $(STAMPS)/atheris
	$(BIN)/python tests/fuzz/run.py $(FUZZ_SECONDS) $(FUZZ)
	$(if $(FUZZ),,INTERCEPTOR_FUZZ_CALLS=$(FUZZ_CALLS) $(BIN)/pytest -s tests/fuzz/test_calls.py)

FUZZ_SECONDS ?= 1800
FUZZ_CALLS ?= 10000000
FUZZ ?=

$(STAMPS)/atheris: $(STAMPS)/venv
	$(PIP) install -q 'atheris>=2.3'
	@touch $@

# What this host's root may lack (CAP_SYS_RESOURCE), or this host must not be put through (modules are loaded, files
# are served), on a virtual machine with Debian's kernel; emulated, it takes minutes.
machine: build $(STAMPS)/images.apt $(STAMPS)/machine.apt
	tests/machine/run

# What is generated from the code.
docs: build
	$(BIN)/python -m interceptor.docgen

# Debian's packages of requirements/NAME.apt, as far as they are missing. No service is started by installing them.
$(STAMPS)/%.apt: requirements/%.apt
	@mkdir -p $(STAMPS)
	@./requirements/install $<
	@touch $@

$(STAMPS)/venv: pyproject.toml $(STAMPS)/build.apt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -q 'meson-python>=0.16' 'meson>=1.4' 'ninja>=1.11' 'cffi>=1.17'
	$(BIN)/python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb")); print("\n".join(p["project"]["dependencies"] + p["dependency-groups"]["dev"]))' > build/requirements.txt
	$(PIP) install -q -r build/requirements.txt
	@touch $@

$(STAMPS)/install: $(STAMPS)/venv $(SOURCES)
	PATH="$(abspath $(BIN)):$$PATH" $(PIP) install -q --no-build-isolation --no-deps --force-reinstall --config-settings=build-dir=build/meson .
	@touch $@

# A virtual environment of its own below PREFIX/lib, and two links in PREFIX/bin.
install: $(STAMPS)/build.apt
	$(PYTHON) -m venv --clear $(LIBRARY)
	$(LIBRARY)/bin/python -m pip --disable-pip-version-check install -q .
	mkdir -p $(PREFIX)/bin
	ln -sf $(LIBRARY)/bin/interceptor $(LIBRARY)/bin/interceptor-runc $(PREFIX)/bin/
	@echo "installed: $(PREFIX)/bin/interceptor and $(PREFIX)/bin/interceptor-runc; interceptor doctor says what Docker needs"

uninstall:
	rm -f $(PREFIX)/bin/interceptor $(PREFIX)/bin/interceptor-runc
	rm -rf $(LIBRARY)

clean:
	rm -rf build $(VENV)
