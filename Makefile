# make demo       set up, then train, evaluate and save a spiking policy (3 to 4 minutes)
# make test       set up, then lint, type-check and test (10 to 15 minutes)
# make test-slow  the learning runs that `make test` leaves out
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-slow lint setup clean

demo: $(STAMP)
	$(BIN)/python -m examples.demo

test: lint
	$(BIN)/python -m pytest -m "not slow and not gpu"

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow -s

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

setup: $(STAMP)

# The stamp is written last: an interrupted installation is repeated, a finished one is not.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[sb3,zoo,d3rlpy,fast,energy,loihi,dev]"
	# The oracle of the operation counts. What it wants besides (torchaudio, tonic) is not used here.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps neurobench==2.3.0 snntorch==1.0.0
	touch $(STAMP)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
