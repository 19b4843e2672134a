"""Two turns of a conversation: python examples/chat.py [MODEL]

The shipped checkpoint knows the chat format and little of the world (README.md).
"""

import sys

import dgemma

model = dgemma.load(sys.argv[1] if len(sys.argv) > 1 else None)
messages = []

for question in ("What does os.path.join do?", "Show a line that uses it."):
    messages.append({"role": "user", "content": question})
    reply = model.chat(messages, max_tokens=64)
    messages.append({"role": "assistant", "content": reply.content})
    print(f"> {question}\n{reply.content}\n")
