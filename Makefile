# Two commands do everything: `make run` and `make test`. `make help` lists the rest.
# Each sets up .venv itself, from the pins in constraints.txt; once that is done it needs no network.

.DEFAULT_GOAL := help
.PHONY: help setup run test test-slow lint notebooks claims clean clean-venv

# The first of these that is Python 3.11 or newer; PYTHON=/path/to/python chooses another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PROFILE ?= quick
NOTEBOOK ?= *
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(wildcard $(VENV)/ready-*)
# pinned; keep: the torch that PYTHON has already; newest: the newest torch. The choice is remembered.
TORCH ?= $(or $(word 2,$(subst -, ,$(notdir $(firstword $(STAMPS))))),pinned)
READY := $(VENV)/ready-$(TORCH)-$(firstword $(shell pwd | cksum))

export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Prints where the torch of PYTHON is, and its version; refuses one that is absent or too old.
define KEPT_TORCH
import pathlib, re, sys
try:
    import torch
except ImportError:
    sys.exit(f"TORCH=keep: {sys.executable} has no torch to keep; name one that has: PYTHON=...")
if tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) < (2, 11):
    sys.exit(f"TORCH=keep: torch {torch.__version__} is too old, 2.11 or newer is needed")
print(pathlib.Path(torch.__file__).parents[1], torch.__version__)
endef
export KEPT_TORCH

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1  /p' Makefile | awk '{printf "  make %-12s", $$2; $$1 = $$2 = ""; print}'
	@echo "Variables: PROFILE=quick|laptop|paper NOTEBOOK=name ARGS='--seed 3' TORCH=pinned|keep|newest PYTHON=python3.12"

setup: $(READY) ## set up .venv, which the other commands do themselves

$(READY): constraints.txt pyproject.toml
	@test -n "$(PYTHON)" && "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "lmcnb needs Python 3.11 or newer; here python3 is: $$(python3 --version 2>&1)." >&2; \
		echo "Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 1; }
	@case "$(TORCH)" in pinned|keep|newest) ;; \
		*) echo "TORCH=$(TORCH) is unknown; allowed: pinned, keep, newest" >&2; exit 1;; esac
	@echo "Setting up $(VENV) (torch: $(TORCH)). The first time takes minutes and needs a network."
	@if ls $(VENV)/ready-* 2>/dev/null | grep -qvxF "$@" || \
		! $(BIN)/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then "$(PYTHON)" -m venv --clear $(VENV); fi
	@if [ "$(TORCH)" = pinned ]; then cp constraints.txt $(VENV); \
		else grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt; fi
	@if [ "$(TORCH)" = keep ]; then kept=$$("$(PYTHON)" -c "$$KEPT_TORCH") || exit 1; \
		echo "torch==$${kept##* }" >> $(VENV)/constraints.txt; \
		echo "$${kept% *}" > "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/kept-torch.pth"; fi
	$(BIN)/python -m pip install --constraint $(VENV)/constraints.txt "setuptools>=77"
	$(BIN)/python -m pip install --constraint $(VENV)/constraints.txt --no-build-isolation \
		--config-settings editable_mode=compat --editable ".[dev]"  # importable from the folder above, too
	@touch "$@"

run: $(READY) ## execute every notebook (quick profile); print the claims and where the results lie
	$(BIN)/lmcnb run $(or $(filter-out *,$(NOTEBOOK)),--all) --profile $(PROFILE) $(ARGS)

test: lint ## check style and types, then run all tests and every notebook
	$(BIN)/python -m pytest --nbval-lax --nbval-current-env $(ARGS)

test-slow: $(READY) ## the tests, with those that take minutes
	$(BIN)/python -m pytest --slow $(ARGS)

lint: $(READY) ## check style (ruff) and types (mypy)
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy

# Metadata that differs from machine to machine; the rest is stripped by default.
VOLATILE := metadata.papermill cell.metadata.papermill cell.metadata.execution \
	$(addprefix metadata.language_info.,codemirror_mode file_extension mimetype \
	nbconvert_exporter pygments_lexer version)

notebooks: $(READY) ## execute the notebooks in place (quick profile) and scrub them, to be committed
	runs=$$(mktemp -d) && trap 'rm -rf "$$runs"' EXIT && \
		CI=true LMCNB_RUNS="$$runs" $(BIN)/jupyter-execute --inplace --kernel_name=python3 notebooks/$(NOTEBOOK).ipynb
	$(BIN)/nbstripout --keep-output --keep-count --keep-id --extra-keys "$(VOLATILE)" notebooks/$(NOTEBOOK).ipynb

claims: $(READY) ## judge the claims from results/ and write the tables of README.md
	$(BIN)/lmcnb claims --readme

clean: ## remove caches and builds; .venv and runs/ stay
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find lmcnb tests notebooks benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

clean-venv: ## remove .venv
	rm -rf $(VENV)
