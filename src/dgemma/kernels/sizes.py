"""How much is worked on at a time: what the operations do, and what the planner of memory counts.

Never loads torch, so that a plan is made without it. Each size was measured to be fast. A larger one takes
more memory beside the model, and memory/plan.py counts it. Trap: the C of the head has TILE once more
(c/head.c).
"""

from __future__ import annotations

TILE = 128  # tokens of the vocabulary whose probabilities are summed together

# Logits that the head works on. On a CPU 2 MB of float32 stay in a core's cache; on a card a launch costs
# more than a pass over 64 MB.
BLOCKS = {"cpu": 1 << 19, "cuda": 1 << 24}

# Elements of a matrix in few bits that are decoded. On a CPU 1 MB in bfloat16 stays in a core's cache; on a
# card it is 32 MB in float32 (2^26 elements took 4 GB to mix a table).
PIECES = {"cpu": 1 << 19, "cuda": 1 << 23}

# Elements of a 16-bit matrix that are widened on CPUs without 16-bit products: 1 MB of float32. Twice as many
# are 8 % faster on average.
WIDENED = 1 << 18

# Scores of attention that exist at a time where torch has no kernel without them: 128 MB, beside their
# softmax
SCORES = 1 << 25

PACKED = ("float32", "bfloat16")  # what CPU weights may be packed in
