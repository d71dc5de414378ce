#!/usr/bin/env bash
# Installs the dev extra into .venv, then runs the linter, the type checker and all tests: bash launch/test.sh
set -euo pipefail
cd "$(dirname "$0")/.."
export TF_CPP_MIN_LOG_LEVEL=3
# Workers and the commands that tests start share what they compile.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$PWD/.pytest_cache/jax}"
[ -x .venv/bin/python ] || python3 -m venv .venv
.venv/bin/pip install -q -e ".[dev]"
.venv/bin/ruff check --select E,F,I,B,UP,W --line-length 120 jaxface configs launch tests
# Options are in pyproject.toml: the public API, in basic mode.
.venv/bin/pyright --pythonpath .venv/bin/python
.venv/bin/python -m pytest tests -n 2 --dist loadfile --durations 15 "$@"
