# make demo   compile and run the GEMM and the quantised GEMM, on the GPU if there is one, else in NumPy
# make test   the whole test suite; brings its own tools
# make lint   ruff and mypy --strict
# make clean  remove .venv and caches

# The first interpreter that is new enough; `make PYTHON=/path/to/python3.12` overrides.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PYTEST_ARGS ?= -n 2 -q --dist worksteal
# The C++ compiler builds the emulator; clang and its tools compile and disassemble HIP for AMD targets.
TOOLS := g++ clang-19 ld.lld-19 llvm-objdump-19
# hiprtc, to compile for AMD targets as the run time does.
LIBRARY := libamdhip64.so.5
PACKAGES := g++ clang-19 lld-19 llvm-19 libamdhip64-5 libhiprtc-builtins5

.PHONY: demo test lint clean tools
.DELETE_ON_ERROR:

demo: .venv/core.stamp
	@extra=$$($(BIN)/python scripts/driver_extra.py) && \
	if [ -n "$$extra" ]; then echo "installing tilec[$$extra]"; $(PIP) -e ".[$$extra]"; fi
	@$(BIN)/python examples/demo.py

test: tools .venv/dev.stamp
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/mypy --strict tilec

# A missing tool is a failure, never a skipped test: root on a Debian machine gets it, others are told.
tools:
	@missing() { for t in $(TOOLS); do command -v $$t >/dev/null || echo $$t; done; \
		PATH=$$PATH:/sbin ldconfig -p | grep -q "$(LIBRARY)" || echo $(LIBRARY); }; \
	[ -z "$$(missing)" ] && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		export DEBIAN_FRONTEND=noninteractive; \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends $(PACKAGES); \
	fi; \
	left=$$(missing | tr '\n' ' '); [ -z "$$left" ] && exit 0; \
	echo "make test: missing $$left" >&2; \
	echo "On Debian or Ubuntu: sudo apt-get install --no-install-recommends $(PACKAGES)" >&2; \
	exit 3

.venv/python.stamp:
	@[ -n "$(PYTHON)" ] || { echo "tilec needs Python 3.11 or newer: none found as python3" >&2; exit 3; }
	@$(PYTHON) -m venv .venv || { \
		echo "$(PYTHON) cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 3; }
	@touch $@

.venv/core.stamp: .venv/python.stamp pyproject.toml
	$(PIP) -e .
	@touch $@

.venv/dev.stamp: .venv/python.stamp pyproject.toml
	$(PIP) -e ".[dev]"
	@touch $@

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist out
