#!/usr/bin/env bash
# Writes requirements.txt: what `dgemma serve` needs on Linux, macOS and Windows, pinned, each file by its SHA-256.
#
#   make lock                  keeps the versions that are locked; make lock UPGRADE=--upgrade takes the newest
#
# Versions of torch and Triton are those of constraints.txt. The hashes are the plain index's: a torch from another index
# (CPU-only wheels) has others, and pip refuses it.
set -euo pipefail
cd "$(dirname "$0")/.."
TOOLS=${TOOLS:-.venv-tools}
scripts/tools.sh
# hatchling builds the package itself, so it is locked as well
echo hatchling | UV_NO_CONFIG=1 "$TOOLS/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --extra serve -c constraints.txt --custom-compile-command 'make lock' "$@" pyproject.toml - -o requirements.txt
