# The commands of the project. Everything works in .venv and nothing outside the folder is touched.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo install test test-slow check format lint types imports report harness docs clean

demo: install  ## sweep the four bundled models on local Ray; about three minutes
	$(BIN)/peaksweep run examples/embedded.yaml --out runs/embedded

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev --editable .
	touch $@

test: install  ## the default suite, on two cores
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

test-slow: install  ## the tests that take longer, one after the other
	$(BIN)/python -m pytest -q -m slow

check: lint types imports test  ## what CI runs first

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: install
	$(BIN)/mypy

imports: install
	$(BIN)/lint-imports

harness: install  ## lm-evaluation-harness beside the environment (200 MB), where only its test looks
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --prefix .venv/harness 'peaksweep[harness]'

docs: install  ## the documentation as a site, in site/; every link and heading is checked
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf .venv runs site
