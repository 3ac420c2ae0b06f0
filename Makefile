# Two commands: `make report` and `make test`. Each installs what it needs on its first call.
.DEFAULT_GOAL := report
.DELETE_ON_ERROR:
.PHONY: report test test-all check example verdicts clean

VENV ?= .venv
BIN := $(VENV)/bin
# Arguments of torch's own installation, e.g. --index-url <PyTorch's CPU index> on a machine without a GPU.
TORCH_ARGS ?=
# Two worker processes of one thread each. More than there are cores only take each other's time.
TEST_ARGS ?= -n 2 --dist worksteal
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
# The first interpreter that really starts and is new enough: a version manager's shim may exist and still fail.
# 3.11 comes first because the pins were made with it.
PYTHON ?= $(shell for candidate in python3.11 python3.12 python3.13 python3 python; do \
	"$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' </dev/null >/dev/null 2>&1 \
	&& echo $$candidate && break; done)
INSTALL := "$(BIN)/python" -m pip install --no-input --disable-pip-version-check -c constraints.txt

$(VENV)/.venv-ok:
	@test -n "$(PYTHON)" || { echo "error: no Python >= 3.11 starts here. Install one, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "== 1/3 creating $(VENV)"
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) does not start or is older than Python 3.11. Name another: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -m venv --clear "$(VENV)" || { echo "error: $(PYTHON) cannot make a virtual environment. On Debian and Ubuntu install python3-venv, then run make again" >&2; exit 1; }
	@touch "$@"

# The stamps are touched last, so an interrupted installation is taken up again. torch comes first and
# alone, so that TORCH_ARGS touches nothing else.
$(VENV)/.deps-ok: pyproject.toml constraints.txt $(VENV)/.venv-ok
	@echo "== 2/3 installing torch (the first time 0.2 to 3 GB, depending on the build)"
	@$(INSTALL) $(TORCH_ARGS) torch || { echo "error: torch was not installed; what pip said stands above. Run make again to go on" >&2; exit 1; }
	@echo "== 3/3 installing gradscope and the other pinned packages"
	@$(INSTALL) -e '.[dev]' || { echo "error: the packages were not installed; what pip said stands above. Run make again to go on" >&2; exit 1; }
	@"$(BIN)/python" -m pip check
	@touch "$@"

report: $(VENV)/.deps-ok
	@"$(BIN)/python" -m gradscope report --preset quick --out reports
	@echo "report: $(CURDIR)/reports/index.html"

test: $(VENV)/.deps-ok
	@$(ONE_THREAD) "$(BIN)/python" -m pytest $(TEST_ARGS)

# Both tiers; the outcome, with its date, goes into docs/slow-tier.md.
test-all: $(VENV)/.deps-ok
	@$(ONE_THREAD) "$(BIN)/python" tests/record_slow_tier.py $(TEST_ARGS)

check: $(VENV)/.deps-ok
	@"$(BIN)/python" -m ruff check .
	@"$(BIN)/python" -m mypy

# The small committed report whose picture the README shows.
example: $(VENV)/.deps-ok
	@"$(BIN)/python" -m gradscope report --preset quick --out reports --example reports/example
	@echo "example: $(CURDIR)/reports/example"

# The same claims over ten other seeds, laid beside the report's in docs/verdicts.md.
verdicts: report
	@"$(BIN)/python" -m gradscope report --preset quick --first-seed 100 --seeds 10 --out reports/other-seeds
	@"$(BIN)/python" tests/record_verdicts.py reports reports/other-seeds

# Everything made here except the reports, which may have taken hours.
clean:
	rm -rf "$(VENV)" build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
