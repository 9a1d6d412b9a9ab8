# The commands that people look for. Each does its own set-up on a fresh Debian 12 with python3, make and root.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.SUFFIXES:

PYTHON ?= /usr/bin/python3
PREFIX ?= /usr/local
VENV := .venv
BIN := $(VENV)/bin
STAMPS := build/stamps
SOURCES := pyproject.toml meson.build $(shell find interceptor runtime policies -type f -not -path '*/__pycache__/*')

.PHONY: build demo test lint bench install uninstall clean docs

build: $(STAMPS)/install

# What Debian has and we need: a compiler, libseccomp's library, runc and crun, and (for tests and demo) the image tools.
$(STAMPS)/debian: images/requirements.apt
	@mkdir -p $(STAMPS)
	@missing=$$(for p in $$(grep -v '^#' $<); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	 if [ -n "$$missing" ]; then \
	   echo "installing from Debian:" $$missing; \
	   DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 update -q && \
	   DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -o DPkg::Lock::Timeout=300 install -q -y --no-install-recommends $$missing; \
	 fi
	@touch $@

$(STAMPS)/venv: pyproject.toml $(STAMPS)/debian
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check 'meson-python>=0.16' 'meson>=1.4' 'ninja>=1.11' 'cffi>=1.17'
	$(BIN)/python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb")); print("\n".join(p["project"]["dependencies"] + p["dependency-groups"]["dev"]))' > build/requirements.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check -r build/requirements.txt
	@touch $@

$(STAMPS)/install: $(STAMPS)/venv $(SOURCES)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps --force-reinstall --config-settings=build-dir=build/meson .
	@touch $@

clean:
	rm -rf build $(VENV)
