"""Shows examples of the small world that the shipped checkpoint learns from.

python scripts/show_world.py                 some of every family
python scripts/show_world.py write edit -n 5 --side test --holdout words
"""

from __future__ import annotations

import argparse

from dgemma.train.world import FAMILIES, HOLDOUTS, Example, World


def shown(example: Example) -> str:
    lines = [f"--- {example.family} {example.holdout or ''}".rstrip()]
    lines += [f"[tool] {tool['function']['name']}" for tool in example.tools]
    for message in example.prompt:
        text = message["content"] or [call["function"] for call in message["tool_calls"]]
        lines.append(f"[{message['role']}] {text}")
    if example.gap:
        start, end = example.gap
        return "\n".join([*lines, f"{example.text[:start]}[[{example.answer}]]{example.text[end:]}"])
    return "\n".join([*lines, f"[answer] {example.answer}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", help="families to show; all by default")
    parser.add_argument("-n", type=int, default=2, help="examples of each family")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", choices=("train", "test"), default="train")
    parser.add_argument("--holdout", choices=HOLDOUTS)
    options = parser.parse_args()
    world = World(options.seed, options.side, options.holdout)
    for family in options.families or [name for name in FAMILIES if name in world.families]:
        for index in range(options.n):
            print(shown(world.example(family, index)))


if __name__ == "__main__":
    main()
