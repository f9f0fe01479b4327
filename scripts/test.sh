#!/usr/bin/env bash
# Runs the tests: bash scripts/test.sh [arguments of pytest]
# SFT_SPEECH_DATA names a folder with real speech, HF_HUB_OFFLINE=0 lets the tests marked "hub" reach the Hub.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/environment.sh
# One process per core with one thread each: tiny models lose more by sharing an operation than they gain.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}"
exec .venv/bin/python -m pytest --numprocesses=auto --maxprocesses=8 "$@"
