# make run: the app. make test: lint, format, types and tests. Both make their own virtual environment when it is not there.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
MARKERS ?= not slow and not parity and not browser and not gpu
WORKERS ?= 2
PORT ?= 8501

.PHONY: run test check peers demo gpu docs

$(VENV)/.runtime: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.development: requirements.txt requirements-dev.txt requirements-docs.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements-dev.txt
	touch $(VENV)/.runtime $@

run: $(VENV)/.runtime
	$(BIN)/streamlit run app.py --server.port $(PORT)

test: $(VENV)/.development check
	$(BIN)/python -m pytest -m "$(MARKERS)" -n $(WORKERS) --durations=15

check: $(VENV)/.development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# the tests marked gpu and one table of speeds, in less than 8 minutes; with GPU_PYTHON no environment is made (docs/gpu.md)
gpu: $(if $(GPU_PYTHON),,$(VENV)/.development)
	$(or $(GPU_PYTHON),$(BIN)/python) -m benchmarks.gpu --tests $(GPU)

# the reference programs in environments of their own, for the parity tests and the benchmarks
peers: .peers/arc-state/.done .peers/vcc/.done .peers/scperteval/.done .peers/scib/.done

.peers/arc-state/.done:
	$(PYTHON) -m venv .peers/arc-state
	.peers/arc-state/bin/python -m pip install -q --disable-pip-version-check torch==2.13.0 arc-state==0.11.1
	touch $@

.peers/vcc/.done:
	$(PYTHON) -m venv .peers/vcc
	.peers/vcc/bin/python -m pip install -q --disable-pip-version-check torch==2.13.0 cell-eval==0.8.2 vcc-cli==0.3.0 "cell-eval2>=0.20,<0.21" pdex==0.3.0
	touch $@

.peers/scperteval/.done:
	$(PYTHON) -m venv .peers/scperteval
	.peers/scperteval/bin/python -m pip install -q --disable-pip-version-check scperteval==0.2.0
	touch $@

.peers/scib/.done:
	$(PYTHON) -m venv .peers/scib
	.peers/scib/bin/python -m pip install -q --disable-pip-version-check scib-metrics==0.5.10
	touch $@

demo: $(VENV)/.runtime
	$(BIN)/python -m state_engine demo --rebuild

# the site made of docs/, in site/: open site/index.html
docs: $(VENV)/.development
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
