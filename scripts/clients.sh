#!/usr/bin/env bash
# Clients of others against `dgemma serve` with the model that ships, each for real: tests/clients/ask_NAME.py and, for npm's, .mjs.
#
#   make test-clients          or: DGEMMA=dgemma scripts/clients.sh [NAME ...]
#
# They pin each other's versions, so they live in environments of their own, made once, and need no torch. None may look for a
# network. npm's are left out, and said to be, where there is no node. Ends with 0 only if every client got what the service says
# without it.
set -euo pipefail
cd "$(dirname "$0")/.."
export DGEMMA=${DGEMMA:-.venv/bin/dgemma} LITELLM_LOCAL_MODEL_COST_MAP=True PYTHONUNBUFFERED=1
export LANGSMITH_TRACING=false OPENAI_AGENTS_DISABLE_TRACING=1 AI_SDK_LOG_WARNINGS=false
WHERE=${CLIENTS:-.venv-clients}
declare -A NEEDS=(
  [apart]="aider-chat==0.86.2"
  [together]="litellm==1.110.2 llm==0.36 instructor==1.17.0"
  [agents]="openai-agents==0.24.0 pydantic-ai-slim[openai,anthropic]==2.68.0 ollama==0.6.3
    langchain-openai==1.7.4 langchain-anthropic==1.7.10 langchain-ollama==1.1.0"
  [node]="ai@6.0.325 @ai-sdk/openai-compatible@2.0.92 ollama@0.6.4 zod@4.6.7"
)
declare -A HOME_OF=(
  [litellm]=together [llm]=together [instructor]=together [aider]=apart
  [agents]=agents [pydantic_ai]=agents [langchain]=agents [ollama]=agents
  [ai.mjs]=node [ollama.mjs]=node
)
declare -A PACKAGE_OF=([aider]=aider-chat [agents]=openai-agents [pydantic_ai]=pydantic-ai-slim [langchain]=langchain-core)

install() {  # one environment, unless it holds what is asked for already
  local folder=$WHERE/$1
  [ "$(cat "$folder/.holds" 2>/dev/null)" = "${NEEDS[$1]}" ] && return
  if [ "$1" = node ]; then
    rm -rf "$folder"
    # shellcheck disable=SC2086  # several requirements
    npm install --prefix "$folder" --silent --no-audit --no-fund ${NEEDS[node]}
  else
    "${PYTHON:-python3}" -m venv --clear "$folder"
    # shellcheck disable=SC2086  # several requirements
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile ${NEEDS[$1]}
  fi
  echo "${NEEDS[$1]}" > "$folder/.holds"
}

ask() {  # one client, by its own interpreter
  local folder=$WHERE/${HOME_OF[$1]}
  case $1 in
    *.mjs)
      cp "tests/clients/ask_$1" "$folder/"  # node looks for packages beside the script
      node "$folder/ask_$1" "$url"
      ;;
    *) "$folder/bin/python" "tests/clients/ask_$1.py" "$url" ;;
  esac
}

version_of() {
  local folder=$WHERE/${HOME_OF[$1]}
  case $1 in
    *.mjs) node -p "JSON.parse(fs.readFileSync('$folder/node_modules/${1%.mjs}/package.json')).version" ;;
    *) "$folder/bin/python" -c "from importlib.metadata import version; print(version('${PACKAGE_OF[$1]:-$1}'))" ;;
  esac
}

if [ $# = 0 ]; then
  set -- litellm llm instructor aider agents pydantic_ai langchain ollama
  if command -v npm > /dev/null; then set -- "$@" ai.mjs ollama.mjs; else echo "no npm: ai.mjs and ollama.mjs are left out" >&2; fi
fi
case $DGEMMA in */*) DGEMMA=$(realpath -s "$DGEMMA") ;; esac
SECONDS=0
mkdir -p "$WHERE"
for name; do echo "${HOME_OF[$name]}"; done | sort -u > "$WHERE/.wanted"
waiting=()
while read -r home; do install "$home" & waiting+=($!); done < "$WHERE/.wanted"
for job in "${waiting[@]}"; do wait "$job"; done
echo "clients installed in $SECONDS s"

log=$(mktemp)
# float64: the same request must give the same answer, whether its prompt was read just now or lies in the cache
"$DGEMMA" serve --port 0 --dtype float64 2> "$log" &
server=$!
trap 'kill $server; wait $server || true; rm -f "$log"' EXIT
for _ in $(seq 240); do grep -q ' answers at ' "$log" && break; kill -0 $server; sleep 0.5; done
url=$(sed -n 's/.* answers at \(http[^ ]*\).*/\1/p' "$log")

failed=0
for name; do
  SECONDS=0
  if ask "$name"; then said=passed; else said=FAILED failed=$((failed + 1)); fi
  echo "$name $(version_of "$name") $said in $SECONDS s"
done
[ $failed = 0 ] || { cat "$log"; exit 1; }
