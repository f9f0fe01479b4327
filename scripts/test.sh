#!/usr/bin/env bash
# Runs the tests: bash scripts/test.sh [arguments of pytest]
# SFT_SPEECH_DATA names a folder of real speech; HF_HUB_OFFLINE=0 lets the tests marked "hub" use the Hub.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/environment.sh
# One process per core with one thread each: tiny models gain nothing from several threads. Neighboring tests share
# fixtures, so each process gets consecutive tests, and takes over tests of others when it is done.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}"
# Tests sometimes fail on a busy machine, so a failed test runs once more; tests/flaky_report.py lists those that then
# pass. More than ten failures have another cause, so they are not repeated.
exec .venv/bin/python -m pytest --numprocesses=auto --maxprocesses=8 --dist=worksteal \
    --durations=20 --reruns=1 --max-suite-reruns=10 "$@"
