"""Write what belongs between two texts: python examples/fill.py [MODEL]"""

import sys

import dgemma

PREFIX = 'def even_numbers(numbers):\n    """Return the even numbers in numbers."""\n'
SUFFIX = "\n\n\nprint(even_numbers([1, 2, 3, 4]))\n"

model = dgemma.load(sys.argv[1] if len(sys.argv) > 1 else None)
filling = model.fill(PREFIX, SUFFIX, seed=0)

print(PREFIX + filling.text + SUFFIX, end="")
print(f"{filling.mean_log_prob:.2f} nats per token in a gap of {filling.width} tokens", file=sys.stderr)
