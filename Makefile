# make demo   install, then ask the embedded model about two pictures
# make test   install with the test tools, then run every test
# make lint | types | bench | clean
#
# PYTHON chooses the interpreter (3.11 or newer), VENV where the environment lives, JOBS how many tests run at once.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin
PACKAGE := src/internvl
EXAMPLES := $(PACKAGE)/nano/examples
INTERNVL := $(abspath $(BIN)/internvl)

.PHONY: demo test lint types bench clean
.DELETE_ON_ERROR:

# The two stamps record a finished installation, so that the second `make` starts at once.
CORE := $(VENV)/.installed
DEV := $(VENV)/.installed-dev

# Says what it runs, so that the next step is to run it with a picture of one's own.
define ask
	@echo "$$ internvl chat $(1) \"$(2)\""
	@cd $(EXAMPLES) && $(INTERNVL) chat $(1) "$(2)"
	@echo
endef

demo: $(CORE)
	@echo
	$(call ask,flag.png,Which country's flag is this?)
	$(call ask,photo.jpg,What is in this photograph?)
	@echo "Try your own: $(BIN)/internvl chat PICTURE \"QUESTION\", or without a question for a conversation."
	@echo "The model is nano, which is in the package and small. For a larger one, from the hub:"
	@echo "  $(BIN)/internvl chat --model OpenGVLab/InternVL2_5-1B PICTURE \"QUESTION\""
	@echo "Next: docs/start.md"

test: $(DEV)
	$(BIN)/python -m pytest -n $(JOBS)

lint: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(DEV)
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(DEV)
	$(BIN)/python benchmarks/speed.py forward
	$(BIN)/python benchmarks/speed.py load

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is %s; say which one: make PYTHON=python3.12" % sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(CORE): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV): a few minutes the first time, most of it PyTorch."
	$(BIN)/python -m pip install -c constraints.txt -e .
	@touch $@

$(DEV): $(CORE)
	$(BIN)/python -m pip install -c constraints.txt -e '.[all]'
	@touch $@

clean:
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis $(CORE) $(DEV)
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
