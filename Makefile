# Two commands do it all: `make demo` and `make test`. Each sets up what it needs first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
TESTS ?= tests
# More options of pytest, such as --cov=mae_jax.
PYTEST_ARGS ?=

.PHONY: demo test slow scanpy lint format docs tutorials package clean

demo: .venv/demo.stamp  ## draw a screen, train, embed, correct, score, report
	$(BIN)/mae-jax demo --out runs/demo

test: .venv/test.stamp  ## the whole suite but what is marked slow
	$(BIN)/python -m pytest -n 2 $(PYTEST_ARGS) $(TESTS)

slow: .venv/test.stamp  ## what takes more than half a minute
	$(BIN)/python -m pytest -n 2 -m slow $(PYTEST_ARGS) $(TESTS)

scanpy: .venv/scanpy/stamp  ## what scanpy makes of the output, with the older pandas it asks for
	.venv/scanpy/bin/python -m pytest tests/inference/test_conventions.py

lint: .venv/lint.stamp  ## style, types and imports between rooms; shell scripts, the Dockerfile
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy mae_jax launch
	$(BIN)/lint-imports
	$(BIN)/shellcheck launch/*.sh
	$(BIN)/hadolint launch/Dockerfile

format: .venv/lint.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# NO_MKDOCS_2_WARNING: the theme's advertisement of its successor is no warning of this site.
docs: .venv/docs.stamp  ## the site, in site/; warnings are errors, links are checked
	NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true JAX_PLATFORMS=cpu \
		$(BIN)/python -m mkdocs build --strict --quiet
	$(BIN)/python docs/scripts/check_site.py site *.md benchmarks/README.md launch/README.md

tutorials: .venv/docs.stamp  ## execute the tutorials as notebooks, in runs/tutorials
	$(BIN)/python docs/scripts/tutorials.py

package: .venv/docs.stamp  ## build wheel and sdist, install both into empty environments, try them
	bash .ci/package

clean:
	rm -rf .venv build dist site *.egg-info

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "mae_jax needs Python 3.11 or newer; say which with: make demo PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/demo.stamp: pyproject.toml constraints.txt | .venv/bin/python
	@echo "installing mae_jax (a minute or two, once)"
	$(PIP) -c constraints.txt -e '.[train]'
	@touch $@

.venv/test.stamp: pyproject.toml constraints.txt | .venv/bin/python
	@echo "installing mae_jax with its test tools (a minute or two, once)"
	$(PIP) -c constraints.txt -e '.[test]'
	@touch $@

.venv/docs.stamp: pyproject.toml constraints.txt | .venv/bin/python
	@echo "installing mae_jax with what its site and tutorials need (once)"
	$(PIP) -c constraints.txt -e '.[docs]' build
	@touch $@

# An environment that borrows all of .venv but what tests/inference/scanpy.txt names.
.venv/scanpy/stamp: .venv/test.stamp tests/inference/scanpy.txt
	$(BIN)/python -m venv --clear .venv/scanpy
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > \
		"$$(.venv/scanpy/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/z.pth"
	.venv/scanpy/bin/python -m pip --disable-pip-version-check install --quiet -r tests/inference/scanpy.txt
	@touch $@

.venv/lint.stamp: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -c constraints.txt -e '.[test,lint]'
	@touch $@
