"""What pip would install, from its `--report`: one line, or an error where that is not what a stranger would get.

    python scripts/read_report.py REPORT REQUIREMENT CONSTRAINTS

Everything but this package itself must come from an index, and torch must not be a local build (`2.13.0+cpu`): such a wheel
brings no Triton, and hides that the pins contradict each other.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(report: str, requirement: str, constraints: str) -> int:
    items = json.loads(Path(report).read_text(encoding="utf-8"))["install"]
    versions = {item["metadata"]["name"].lower(): item["metadata"]["version"] for item in items}
    sources = {item["metadata"]["name"].lower(): item["download_info"]["url"] for item in items}
    local = sorted(name for name, url in sources.items() if url.startswith("file:") and name != "dgemma")
    if local or "+" in versions["torch"]:
        print(
            f"{requirement}: not from the index: {', '.join(local) or 'torch ' + versions['torch']}",
            file=sys.stderr,
        )
        return 1
    print(
        f"Linux by pip, {requirement}: {len(items)} packages, torch {versions['torch']}, triton {versions['triton']} ({constraints})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
