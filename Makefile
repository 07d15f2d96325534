# make demo   the whole pipeline on synthetic scans, on the CPU
# make test   lint and tests, as CI runs them; make test-all adds the slow ones
# make bench  the benchmarks of docs/performance.md at the size of a CPU, about six minutes
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Two processes of one thread each; the tests of one file share what they trained.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

.PHONY: demo test test-all bench lint format

demo: $(VENV)/installed
	$(BIN)/python code/make_demo.py --overwrite

test: lint
	$(PYTEST)

test-all: lint
	$(PYTEST) -m ""

bench: $(VENV)/installed
	for claim in encoder loading distances metrics inference step round; do \
		$(BIN)/python benchmarks/bench_$$claim.py || exit 1; \
	done

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/installed: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt
	touch $@
