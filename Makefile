PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
DEMO_ROOT ?= demo
SEED ?= 42
FOLDS ?= 5
JOBS ?= 2
DEMO_BANDS ?=
TEST_JOBS ?= 2

VENV_PYTHON := .venv/bin/python
STAMP := .venv/requirements-$(if $(CONSTRAINTS),constrained,unconstrained)
DEMO_DATA = $(if $(filter 4,$(DEMO_BANDS)),--near-infrared)
BANDS = $(if $(DEMO_BANDS),--bands $(DEMO_BANDS))
RESULTS = $(DEMO_ROOT)/evaluation/evaluation_results

define NOT_IN_USE
import sys
from pathlib import Path
from common.cli import run
from common.files import locked
def main():
    with locked(Path(sys.argv[1])):
        pass
run(main)
endef
export NOT_IN_USE

.DEFAULT_GOAL := help
.PHONY: help install demo evidence test lint audit clean
.DELETE_ON_ERROR:

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile
	@echo
	@echo '  PYTHON=python3.12   the Python that .venv is made with, 3.11 or newer'
	@echo '  CONSTRAINTS=        whatever versions requirements.txt allows, not just those of constraints.txt'
	@echo '  DEMO_ROOT=demo      the folder that make demo writes, SEED=42 its seed'
	@echo '  DEMO_BANDS="1 2 3 4"  the bands of the demo, of which the fourth is near infrared; the first three unless given'
	@echo '  FOLDS=5             the folds of make evidence, JOBS=2 how many steps run side by side'

install: $(STAMP)  ## make .venv and install requirements.txt under constraints.txt (about 6 GB, once)

# Written last: it stands for an installation that pip finished, and is older than a list that changed since.
$(STAMP): requirements.txt $(CONSTRAINTS)
	@test -x $(VENV_PYTHON) || command -v '$(PYTHON)' >/dev/null || \
	  { echo 'error: found no $(PYTHON). Install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3.12'; exit 2; } >&2
	@python='$(PYTHON)'; test ! -x $(VENV_PYTHON) || python=$(VENV_PYTHON); \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $$python is $$("$$python" -V), Python 3.11 or newer is needed." \
	      'Remove .venv if there is one, and name another: make PYTHON=/path/to/python3.12'; exit 2; } >&2
	@test -x $(VENV_PYTHON) || '$(PYTHON)' -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo 'error: $(PYTHON) cannot make a virtual environment: its venv or ensurepip module is missing.' \
	      'On Debian and Ubuntu: sudo apt install python3-venv'; exit 2; } >&2
	@test -x $(VENV_PYTHON) || { echo 'Making .venv'; '$(PYTHON)' -m venv --clear .venv; }
	@$(VENV_PYTHON) -m pip --version >/dev/null 2>&1 || $(VENV_PYTHON) -m ensurepip --upgrade
	@echo 'Installing requirements.txt $(if $(CONSTRAINTS),under $(CONSTRAINTS) )into .venv:' \
	  'about 6 GB the first time (torch with CUDA), which takes some minutes'
	$(VENV_PYTHON) -m pip --disable-pip-version-check install -r requirements.txt $(if $(CONSTRAINTS),-c $(CONSTRAINTS))
	@rm -f .venv/requirements-* && touch $@

demo: $(STAMP)  ## the whole pipeline on a small generated data set, in demo/
	@if test -n "$$(ls -A '$(DEMO_ROOT)' 2>/dev/null)" && ! test -e '$(DEMO_ROOT)/data/demo_data.json' && \
	  ! test -e '$(DEMO_ROOT)/data/.demo_data.partial'; then \
	  echo 'error: $(DEMO_ROOT) was not made by make demo (it has no data/demo_data.json) and is not replaced.' \
	    'Remove it yourself, or name another folder: make demo DEMO_ROOT=...' >&2; exit 2; fi
	@test ! -d '$(DEMO_ROOT)/logs' || $(VENV_PYTHON) -c "$$NOT_IN_USE" '$(DEMO_ROOT)/logs'
	@echo 'This draws small landscapes into $(DEMO_ROOT)/, so you need no data and no GPU. Then it prepares the tiles, trains'
	@echo 'a teacher and seven stages, scores and compares them, and makes a map: three to four minutes on two cores.'
	@echo 'Each line that begins with a number in brackets is one step. Ctrl-C stops it; make demo begins anew.'
	rm -rf '$(DEMO_ROOT)'
	$(VENV_PYTHON) -m data_prep.make_demo_data --root '$(DEMO_ROOT)' --seed $(SEED) $(DEMO_DATA)
	$(VENV_PYTHON) reproduce.py --root '$(DEMO_ROOT)' --preset demo --seed $(SEED) --map --jobs $(JOBS) $(BANDS)
	@echo 'Map of a scene, with the area of each class: $(DEMO_ROOT)/evaluation/map/'
	@echo 'Begin with the report. Open it in a browser: $(RESULTS)/val/report.html'

evidence: $(STAMP)  ## five folds and the controls on the demo data, with intervals
	@test -e '$(DEMO_ROOT)/data/demo_data.json' || \
	  $(VENV_PYTHON) -m data_prep.make_demo_data --root '$(DEMO_ROOT)' --seed $(SEED) $(DEMO_DATA)
	$(VENV_PYTHON) reproduce.py --root '$(DEMO_ROOT)' --preset demo --seed $(SEED) --folds $(FOLDS) --controls --jobs $(JOBS) --resume $(BANDS)
	@echo 'Differences of the stages, with intervals: $(RESULTS)/val/metrics_summary.md'
	@echo 'Begin with the report. Open it in a browser: $(RESULTS)/val/report.html'

lint: $(STAMP)  ## ruff, and pyrefly, which checks types
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m pyrefly check --python-interpreter-path $(VENV_PYTHON) --output-format min-text

# One thread a test: those that run side by side would only wait for each other's.
test: lint  ## ruff and pyrefly, then all tests
	OMP_NUM_THREADS=1 $(VENV_PYTHON) -m pytest -q -n $(TEST_JOBS) --dist worksteal

audit: $(STAMP)  ## known vulnerabilities of the versions in constraints.txt; needs a connection
	@test -x .venv/audit/bin/pip-audit || { $(VENV_PYTHON) -m venv .venv/audit && .venv/audit/bin/pip install -q pip-audit; }
	.venv/audit/bin/pip-audit --no-deps --disable-pip -r constraints.txt

clean:  ## remove demo/ and caches; .venv stays
	rm -rf demo .pytest_cache .ruff_cache .hypothesis
	find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
