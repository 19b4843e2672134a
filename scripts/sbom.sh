#!/usr/bin/env bash
# Writes dist/sbom.cdx.json: what is installed in $VENV (default .venv), with versions and licences, as CycloneDX.
#
#   make sbom                  or: VENV=/path/to/venv scripts/sbom.sh
set -euo pipefail
cd "$(dirname "$0")/.."
TOOLS=${TOOLS:-.venv-tools} VENV=${VENV:-.venv}
scripts/tools.sh
mkdir -p dist
"$TOOLS/bin/cyclonedx-py" environment --pyproject pyproject.toml --output-reproducible --of JSON -o dist/sbom.cdx.json "$VENV/bin/python"
echo "dist/sbom.cdx.json: $(grep -c '"purl": "pkg:pypi' dist/sbom.cdx.json) packages"
