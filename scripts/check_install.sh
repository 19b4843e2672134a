#!/usr/bin/env bash
# Does the package install on a stranger's machine? Resolves it from the plain package index and installs nothing.
#
#   make check-install
#
# pip resolves for this Linux, uv for macOS and Windows. Both ignore this machine's settings (configuration files, local wheels),
# which would hide what strangers see. Only metadata is read: seconds and megabytes, not the gigabytes of torch.
set -euo pipefail
cd "$(dirname "$0")/.."
TOOLS=${TOOLS:-.venv-tools}

unset PIP_FIND_LINKS PIP_EXTRA_INDEX_URL PIP_CONSTRAINT PIP_NO_INDEX UV_FIND_LINKS UV_EXTRA_INDEX_URL UV_INDEX UV_CONSTRAINT
export PIP_CONFIG_FILE=/dev/null UV_NO_CONFIG=1 MACOSX_DEPLOYMENT_TARGET=14.0
scripts/tools.sh

reports=$(mktemp -d)
trap 'rm -rf "$reports"' EXIT

by_pip() {  # REQUIREMENT CONSTRAINTS
  local report said
  report=$(mktemp -p "$reports")
  said=$("$TOOLS/bin/python" -m pip install --quiet --dry-run --ignore-installed --use-feature=fast-deps -c "$2" --report "$report" \
    "$1" 2>&1) || { echo "$said" >&2; return 1; }
  "$TOOLS/bin/python" scripts/read_report.py "$report" "$1" "$2"
}

by_uv() {  # EXTRA (or -), CONSTRAINTS, PYTHON, PLATFORM
  local resolved extra=()
  [ "$1" = - ] || extra=(--extra "$1")
  resolved=$("$TOOLS/bin/uv" pip compile --quiet --python-platform "$4" --python-version "$3" "${extra[@]}" -c "$2" pyproject.toml)
  echo "$4, Python $3, extra $1: $(grep -c == <<< "$resolved") packages, $(grep -o '^torch==[^ ]*' <<< "$resolved") ($2)"
}

export -f by_pip by_uv
export TOOLS reports
{
  for requirement in '.[test]' '.[serve]' .; do echo "by_pip $requirement constraints.txt"; done
  for end in oldest newest; do echo "by_pip .[test] tests/range/$end.txt"; done
  for platform in aarch64-apple-darwin x86_64-pc-windows-msvc; do
    for extra in - serve test; do echo "by_uv $extra constraints.txt 3.11 $platform"; done
    for end in oldest newest; do echo "by_uv test tests/range/$end.txt 3.12 $platform"; done
  done
} | xargs -P 2 -I {} bash -f -euo pipefail -c '{} || { echo "FAILED: {}" >&2; exit 1; }'
