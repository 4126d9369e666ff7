# Needs only python3 (3.10 or newer) and make. `make` alone lists what there is to do.

PYTHON ?= python3
VENV    = .venv
BIN     = $(VENV)/bin
STAMP   = $(VENV)/installed
# pip shows its progress on a terminal and keeps logs short elsewhere
PIP     = $(BIN)/python -m pip --disable-pip-version-check $(if $(MAKE_TERMOUT),,--quiet)

C_SOURCES = $(wildcard sb3_ppo_edu/engines/fused/csrc/*.[ch] tests/toy_kernels/*.c benchmarks/kernels/*.c)

# What `make train` trains, each to be set on the command line: make train ENV_ID=CartPole-v1 STEPS=20000
# ARGS goes to the command as it is: make train ARGS="--engine autograd", make test ARGS="-k losses"
ENV_ID  = LunarLanderContinuous-v3
STEPS   =
SEED    = 0
NAME    =
ARGS    =

.DEFAULT_GOAL := help
.PHONY: help install train notebooks test test-envpool slow sb3-tests sanitize mutants check format docs docs-links lessons kernels wheel wheels release lock import-time clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

install: $(STAMP) ## create .venv and install the locked packages; does nothing when that is done

# One recipe, so that an interrupted installation leaves no stamp and the next call goes on where it stopped.
$(STAMP): requirements.lock setup.cfg setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	  echo "make: PYTHON=$(PYTHON): found '$$($(PYTHON) --version 2>&1)', expected Python 3.10 or newer." >&2; \
	  echo "      Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "make: $(PYTHON) could not create $(VENV) (see above)." >&2; \
	  echo "      On Debian and Ubuntu 'apt install python3-venv' provides what is missing." >&2; \
	  rm -rf $(VENV); exit 1; }
	@echo "Installing the packages of requirements.lock into $(VENV) (once; a few minutes)"
	@$(PIP) install --requirement requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

train: $(STAMP) ## train on LunarLanderContinuous-v3, compare with a random policy, leave everything in runs/
	@$(BIN)/sb3-edu train --env $(ENV_ID) $(if $(STEPS),--steps $(STEPS)) --seed $(SEED) $(if $(NAME),--name $(NAME)) $(ARGS)

notebooks: $(STAMP) ## open the lessons in JupyterLab, at lesson 01
	@$(BIN)/jupyter lab notebooks/student/01_policy_gradients.ipynb

test: $(STAMP) ## run the tests, with the coverage of the floors 1 to 3
	@$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal -m "not slow" --durations 20 --cov --cov-report term $(ARGS)

slow: $(STAMP) ## run the experiments that take minutes
	@$(BIN)/python -m pytest -m slow --timeout 0 $(ARGS)

test-envpool: $(STAMP) ## install EnvPool (700 MB) and run the tests that need it
	@$(PIP) install --quiet --requirement requirements-envpool.lock
	@$(BIN)/python -m pytest tests/test_backends_native.py -k envpool $(ARGS)

sb3-tests: $(STAMP) ## run SB3's and sb3-contrib's own tests of PPO with ours in its place (downloads them once)
	@$(BIN)/python benchmarks/sb3_tests/run.py $(ARGS)

sanitize: $(STAMP) ## run the kernels under gcc's address and undefined-behaviour sanitizers
	@$(BIN)/python benchmarks/sanitize/sanitize.py $(ARGS)

mutants: $(STAMP) ## would the tests notice? 200 small changes of the package, each judged by the tests (an hour; can be stopped)
	@$(BIN)/python benchmarks/house/mutants.py $(ARGS)

check: $(STAMP) ## format, lint and types; changes nothing
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/clang-format --dry-run --Werror $(C_SOURCES)
	@$(BIN)/mypy

format: $(STAMP) ## format the code and mend what the linter can
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .
	@$(BIN)/clang-format -i $(C_SOURCES)

# Sphinx reads docs/, benchmarks/, notebooks/ and the READMEs of the package where they lie (docs/conf.py says which files).
docs: $(STAMP) ## build the documentation into build/site, warnings are errors, and follow every link in it
	@rm -rf build/site build/doctrees
	@$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --conf-dir docs --doctree-dir build/doctrees . build/site
	@$(BIN)/python docs/tools/check_links.py build/site

docs-links: $(STAMP) ## look whether the links that lead out of the documentation still do
	@$(BIN)/python -m sphinx --builder linkcheck --conf-dir docs --doctree-dir build/doctrees . build/links

lessons: $(STAMP) ## run the lessons whose code has changed, for what the documentation shows under their cells (minutes)
	@$(BIN)/python docs/tools/run_lessons.py $(ARGS)

wheel: $(STAMP) ## build a wheel into dist/
	@$(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .

kernels: $(STAMP) ## compile the kernels anew, in place
	@$(BIN)/python sb3_ppo_edu/engines/fused/build.py $(ARGS)

wheels: $(STAMP) ## build a wheel for every platform into dist/, check it, run its kernels if possible (minutes)
	@$(BIN)/python benchmarks/wheels/wheels.py $(ARGS)

release: $(STAMP) ## what a release needs: consistent versions, sdist and wheels, each installed bare and tried (publishes nothing)
	@$(BIN)/python benchmarks/house/release.py $(ARGS)

import-time: $(STAMP) ## measure how much longer importing EduPPO takes than importing stable_baselines3
	@$(BIN)/python benchmarks/import_time.py

# torch is pinned to the version the numbers were measured with. CUDA's packages are left out: torch itself requires those
# that its build for the platform at hand needs, and a build for the CPU needs none.
lock: $(STAMP) ## resolve requirements.lock anew, for every platform and Python from 3.10 on
	@$(PIP) install uv
	@{ printf '%s\n' '# Made by `make lock`: uv pip compile --universal --python-version 3.10 (extras mujoco, plots, lab, ray, export, course, docs, tests, dev).' \
	    '# Not edited by hand.'; \
	  echo 'torch==2.13.0' | $(BIN)/python -m uv pip compile --quiet --universal --python-version 3.10 --no-header --no-annotate \
	    --extra mujoco --extra plots --extra lab --extra ray --extra export --extra course --extra docs --extra tests --extra dev --upgrade setup.cfg - | grep -Ev '^(nvidia-|cuda-|triton)'; } > requirements.new
	@mv requirements.new requirements.lock

clean: ## remove what builds and tests leave; .venv and runs/ stay
	rm -rf build docs/api docs/lessons dist *.egg-info .coverage .coverage.* htmlcov .hypothesis .mypy_cache .pytest_cache .ruff_cache requirements.new MUJOCO_LOG.TXT sb3_ppo_edu/engines/fused/.libsb3edu-*
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
