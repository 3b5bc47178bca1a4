# kpnb: `make lab` to learn, `make test` to check everything. Works with GNU make 3.81 and later.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip
SETUP  := settings.ini setup.py pyproject.toml constraints.txt

.PHONY: help lab test bench gpu run-notebooks evidence badges clean

help:
	@echo "make lab            install into $(VENV) and open the first notebook in JupyterLab (LABFLAGS=--no-browser and the like)"
	@echo "make test           run every check that CI runs"
	@echo "make run-notebooks  execute the notebooks in place and store their outputs (NB=\"00 21\" for some)"
	@echo "make bench          measure speed against other libraries"
	@echo "make gpu            on a machine with CUDA: compare it with the CPU, run every notebook on it, measure its speed"
	@echo "make evidence       list the studies; STUDY=name runs one, or goes on with it (ARGS=--max-seconds=3600 and the like)"

lab: $(VENV)/.lab
	$(BIN)/python -m jupyterlab $(LABFLAGS) nbs/00_start_here.ipynb

test: $(VENV)/.dev
	$(BIN)/python .ci/check.py $(ONLY)

run-notebooks: $(VENV)/.dev
	$(BIN)/python .ci/run_notebooks.py $(NB)

bench: $(VENV)/.bench
	$(BIN)/python bench/run.py

gpu: $(VENV)/.bench
	$(BIN)/python .ci/gpu.py $(ONLY)

evidence: $(VENV)/.dev
	$(BIN)/python -m kpnb.evidence $(STUDY) $(ARGS)

badges: $(VENV)/.dev
	$(BIN)/python .ci/badges.py

$(BIN)/python:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10))" || \
	  { echo "kpnb needs Python 3.10 or later; '$(PYTHON)' is older. Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# A stamp file for each set of extras: a second call starts at once, and a changed requirement installs again.
$(VENV)/.lab: EXTRAS = lab
$(VENV)/.dev: EXTRAS = lab,dev
$(VENV)/.bench: EXTRAS = lab,dev,bench
$(VENV)/.lab $(VENV)/.dev $(VENV)/.bench: $(SETUP) | $(BIN)/python
	@echo "Installing kpnb[$(EXTRAS)]; the first time takes a few minutes, most of it for torch."
	$(PIP) install --constraint constraints.txt --editable ".[$(EXTRAS)]"
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info _proc .pytest_cache .ruff_cache
