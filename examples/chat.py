"""Two turns of a conversation: python examples/chat.py [MODEL]

The second question is understood from the first: a conversation is sent whole each time.
"""

import sys

import dgemma

model = dgemma.load(sys.argv[1] if len(sys.argv) > 1 else None)
messages = []

for question in ("What is the opposite of day?", "And of hot?"):
    messages.append({"role": "user", "content": question})
    reply = model.chat(messages, max_tokens=64)
    messages.append({"role": "assistant", "content": reply.content})
    print(f"> {question}\n{reply.content}\n")
