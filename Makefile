PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
METRICS := .venv-metrics

.PHONY: demo test test-browser test-metrics chromium check install install-dev clean

# One image with three LoRAs, on any machine with Python 3.11 or newer.
demo: $(VENV)/.installed
	$(BIN)/lora-compose generate "mochi cat on the left and ember cat on the right in candia" \
	  --lora mochi --lora ember --lora candia:0.8 --method regional \
	  --region mochi=0,0,0.5,1 --region ember=0.5,0,1,1 --seed 1 --out out

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto

# The app in the system's Chromium. Where that is missing and cannot be had from apt, the tests are
# skipped and say why.
test-browser: $(VENV)/.installed-dev chromium
	LORA_COMPOSE_BROWSER=1 $(BIN)/python -m pytest -q tests/app/ui/test_browser.py

chromium:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
	  (apt-get update -qq && apt-get install -y -qq chromium) >/dev/null 2>&1 || \
	  echo "no Chromium here and none to be had from apt-get: browser tests will be skipped"

# Scorers that need open_clip, and with it torchvision: in an environment of its own, since a
# torchvision that does not fit torch breaks everything else (docs/evaluate.md).
test-metrics: $(METRICS)/.installed
	$(METRICS)/bin/python -m pytest -q tests/metrics tests/evaluate/test_scorers.py

# What a commit has to pass beside the tests.
check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.torch: | $(BIN)/python
	$(BIN)/pip install --quiet "torch>=2.11,<2.14"
	touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.torch
	$(BIN)/pip install --quiet --editable ".[train]"
	touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.torch
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@ $(VENV)/.installed

# torch comes first, so that pip keeps it and takes the torchvision that names its version.
$(METRICS)/.installed: pyproject.toml
	$(PYTHON) -m venv $(METRICS)
	$(METRICS)/bin/pip install --quiet "torch>=2.11,<2.14"
	$(METRICS)/bin/pip install --quiet --editable ".[dev,metrics]"
	touch $@

clean:
	rm -rf $(VENV) $(METRICS) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
