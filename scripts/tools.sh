#!/usr/bin/env bash
# The tools of the scripts beside this one, in an environment of their own (.venv-tools), made once.
set -euo pipefail
cd "$(dirname "$0")/.."
TOOLS=${TOOLS:-.venv-tools}
NEEDS="pip==26.3 uv==0.13.9 cyclonedx-bom==7.5.0"
[ "$(cat "$TOOLS/.holds" 2>/dev/null)" = "$NEEDS" ] && exit
"${PYTHON:-python3}" -m venv --clear "$TOOLS"
# shellcheck disable=SC2086  # several requirements
"$TOOLS/bin/python" -m pip install --quiet --disable-pip-version-check $NEEDS
echo "$NEEDS" > "$TOOLS/.holds"
