#!/usr/bin/env bash
# What a GPU does here, in about ten minutes and without the internet: docs/gpu.json, docs/gpu.log.
#   benchmarks/gpu.sh               needs .venv (make setup) and data/mnist (dvc repro download-mnist)
#   benchmarks/gpu.sh --rehearse    the same on a CPU, with the sample of the tests: does it run?
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH" MLFLOW_DISABLE_TELEMETRY=true DVC_NO_ANALYTICS=1
log=docs/gpu.log
for argument; do [[ $argument = --rehearse ]] && log=/dev/null; done
python benchmarks/gpu.py "$@" 2>&1 | tee "$log"
