"""Watch a canvas settle, one line per step: python examples/stream.py [MODEL]"""

import sys

import dgemma
from dgemma.tasks.events import Committed, Draft

model = dgemma.load(sys.argv[1] if len(sys.argv) > 1 else None)

for event in model.stream("def double(n):\n", max_tokens=64):
    if isinstance(event, Draft):
        mean = sum(event.entropy) / len(event.entropy)
        start = "".join(event.pieces)[:50]
        print(f"step {event.step:2}: {sum(event.accepted):2} accepted, {mean:.2f} nats, {start!r}")
    elif isinstance(event, Committed):
        print(f"canvas {event.canvas} stands after {event.steps} steps:\n{event.text}")
