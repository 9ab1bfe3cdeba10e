#!/usr/bin/env bash
# Set up and run the tests, two files at a time (-n 0: one, and what it prints as it comes);
# arguments go to pytest, paths in them are relative to the clone. All tests took 32 minutes
# on two cores with a little other work, the last line says how long they took; -m unit took one.
#
#   bash scripts/run_tests.sh [-x] [-m MARKER] [-k EXPRESSION] [tests/test_audio.py ...]
#
# Markers: unit, training, launcher, cpp (pyproject.toml). REQUIRE_ALL_TESTS=1 makes a failure of a
# test that is skipped because something is not installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash scripts/setup.sh requirements.txt requirements-test.txt
# no reordering: tests/conftest.py puts the files that take longest first
exec .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
