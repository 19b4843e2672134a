"""Write what belongs between two texts: python examples/fill.py [MODEL]"""

import sys

import dgemma

PREFIX = "def mean(values):\n    total = 0\n    for value in values:\n        "
SUFFIX = "\n    return total / len(values)\n"

model = dgemma.load(sys.argv[1] if len(sys.argv) > 1 else None)
filling = model.fill(PREFIX, SUFFIX, seed=0)

print(PREFIX + filling.text + SUFFIX, end="")
print(f"{filling.mean_log_prob:.2f} nats per token in a gap of {filling.width} tokens", file=sys.stderr)
