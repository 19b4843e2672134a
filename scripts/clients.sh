#!/usr/bin/env bash
# Clients of others against `dgemma serve` with the model that ships: litellm, llm, instructor and aider, each for real (tests/clients/).
#
#   make test-clients          or: DGEMMA=dgemma scripts/clients.sh [NAME ...]
#
# They pin each other's versions, so they live in two environments of their own, made once, and need no torch. None may look for a
# network. Ends with 0 only if every client got what the service says without it.
set -euo pipefail
cd "$(dirname "$0")/.."
export DGEMMA=${DGEMMA:-.venv/bin/dgemma} LITELLM_LOCAL_MODEL_COST_MAP=True PYTHONUNBUFFERED=1
WHERE=${CLIENTS:-.venv-clients}
declare -A NEEDS=([apart]="aider-chat==0.86.2" [together]="litellm==1.110.2 llm==0.36 instructor==1.17.0")
declare -A HOME_OF=([litellm]=together [llm]=together [instructor]=together [aider]=apart)

install() {  # one environment, unless it holds what is asked for already
  local folder=$WHERE/$1
  [ "$(cat "$folder/.holds" 2>/dev/null)" = "${NEEDS[$1]}" ] && return
  "${PYTHON:-python3}" -m venv --clear "$folder"
  # shellcheck disable=SC2086  # several requirements
  "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile ${NEEDS[$1]}
  echo "${NEEDS[$1]}" > "$folder/.holds"
}

case $DGEMMA in */*) DGEMMA=$(realpath -s "$DGEMMA") ;; esac
SECONDS=0
install together & together=$!
install apart
wait $together
echo "clients installed in $SECONDS s"

log=$(mktemp)
# float64: the same request must give the same answer, whether its prompt was read just now or lies in the cache
"$DGEMMA" serve --port 0 --dtype float64 2> "$log" &
server=$!
trap 'kill $server; wait $server || true; rm -f "$log"' EXIT
for _ in $(seq 240); do grep -q ' answers at ' "$log" && break; kill -0 $server; sleep 0.5; done
url=$(sed -n 's/.* answers at \(http[^ ]*\).*/\1/p' "$log")

[ $# -gt 0 ] || set -- litellm llm instructor aider
failed=0
for name; do
  SECONDS=0 python=$WHERE/${HOME_OF[$name]}/bin/python
  if "$python" "tests/clients/ask_$name.py" "$url"; then said=passed; else said=FAILED failed=$((failed + 1)); fi
  echo "$name $("$python" -c "from importlib.metadata import version; print(version('${name/aider/aider-chat}'))") $said in $SECONDS s"
done
[ $failed = 0 ] || { cat "$log"; exit 1; }
