# stocktake: every job of a developer and of a first-time user. `make` alone lists them.
.POSIX:
SHELL = /bin/sh
VENV = .venv
BIN = $(VENV)/bin
# Compiled code is kept even where the machine is told not to: else each of a thousand short programs compiles it anew.
PYTHON = PYTHONDONTWRITEBYTECODE= $(BIN)/python
RUN = run

.PHONY: help run demo test soak lint bench docs clean pyright

help: ## list the jobs
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1|\2/p' Makefile | awk -F'|' '{ printf "  %-12s %s\n", $$1, $$2 }'

run: ## take stock of this machine once, with everything embedded, and show the books
	@tools/bootstrap run
	@tools/first_run $(BIN) $(RUN)/here

demo: ## a generated fleet to look around in: NUMA, PCI, instances in all states, migrations, orphans
	@tools/bootstrap run
	@$(BIN)/python -m tools.demo $(RUN)/demo

test: ## install what the tests need (private servers, nothing of the machine's is touched) and run them all
	@tools/bootstrap test
	@$(PYTHON) -m tools.run_tests

soak: ## try for long: 2,000 histories of a fleet, races, claims, the API (PART=, SEEDS=, SEED=: see tools/soak.py)
	@tools/bootstrap test
	@$(PYTHON) -m tools.soak "part=$(PART)" "seeds=$(SEEDS)" "seed=$(SEED)"

lint: ## formatter, linter, types, layers
	@tools/bootstrap test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: ## measure, beside the floor that any implementation must pay
	@tools/bootstrap test
	@$(PYTHON) -m bench

docs: ## write the generated references anew
	@tools/bootstrap run
	@$(BIN)/python -m tools.reference

clean: ## remove what make made
	rm -rf $(VENV) .venv-ironic .venv-nova .venv-openstack $(RUN) .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage .coverage.*
