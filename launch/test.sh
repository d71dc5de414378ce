#!/usr/bin/env bash
# Installs the dev extra into .venv and runs the linter and the whole test suite: bash launch/test.sh
set -euo pipefail
cd "$(dirname "$0")/.."
export TF_CPP_MIN_LOG_LEVEL=3
[ -x .venv/bin/python ] || python3 -m venv .venv
.venv/bin/pip install -q -e ".[dev]"
.venv/bin/ruff check --select E,F,I,B,UP,W --line-length 120 jaxface configs launch tests
.venv/bin/python -m pytest tests -n 2 --dist loadfile --durations 15 "$@"
