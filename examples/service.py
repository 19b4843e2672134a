"""Ask a running `dgemma serve` and watch its canvas settle, with nothing but the standard library."""

import json
import sys
import urllib.request

URL = "http://127.0.0.1:8256/v1/canvas"


def main() -> None:
    prompt = sys.argv[1] if len(sys.argv) > 1 else "def double(n):"
    body = json.dumps({"task": "complete", "prompt": prompt, "max_tokens": 64}).encode()
    tokens: list[str] = []
    with urllib.request.urlopen(urllib.request.Request(URL, body)) as stream:
        name = ""
        for line in stream:
            field, _, value = line.decode().rstrip("\n").partition(": ")
            if field == "event":
                name = value
            elif field == "data" and name == "step":
                step = json.loads(value)
                tokens = tokens if len(tokens) == step["width"] else [""] * step["width"]
                for token in step["tokens"]:
                    tokens[token["at"]] = token["text"]
                print(f"\rstep {step['step']:2}  {''.join(tokens)[:60]!r:64}", end="", file=sys.stderr)
            elif field == "data" and name == "done":
                print(file=sys.stderr)
                print(prompt + json.loads(value)["text"])


if __name__ == "__main__":
    main()
