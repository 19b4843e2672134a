"""Continue a text with the shipped checkpoint, or the one named: python examples/generate.py [MODEL]"""

import sys

import dgemma

model = dgemma.load(sys.argv[1] if len(sys.argv) > 1 else None)
answer = model.generate("English: The tree is old.\nGerman:", max_tokens=64, seed=0)

print(answer.text)
print(f"{answer.steps_per_canvas:.1f} steps per canvas, {answer.finish_reason}", file=sys.stderr)
