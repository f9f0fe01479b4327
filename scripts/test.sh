#!/usr/bin/env bash
# Runs the tests: bash scripts/test.sh [arguments of pytest]
# SFT_SPEECH_DATA names a folder with real speech, HF_HUB_OFFLINE=0 lets the tests marked "hub" reach the Hub.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/environment.sh
# One process per core with one thread each: tiny models lose more by sharing an operation than they gain. Neighbouring
# tests share fixtures, so each process has a half of them in a row, and takes from the other's when it is done.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}"
# A busy machine fails a test now and then, so a failed test runs once more; tests/flaky_report.py lists those that pass
# then. More than ten failures have another cause: running all of them again would only take time.
exec .venv/bin/python -m pytest --numprocesses=auto --maxprocesses=8 --dist=worksteal \
    --durations=20 --reruns=1 --max-suite-reruns=10 "$@"
