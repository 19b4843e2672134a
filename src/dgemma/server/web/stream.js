// The service, as seen from the page: JSON in, server-sent events out, over fetch (an EventSource can send neither a body nor a key).
// Knows no task and no element. Trap: an event may be cut anywhere between two chunks, also inside a character.

const KEY = "dgemma.key"; // in sessionStorage: gone with the tab, never on disk

export class ServiceError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const keepKey = (key) => sessionStorage.setItem(KEY, key);

async function ask(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  let reply;
  try {
    reply = await fetch(path, { ...options, headers: { ...headers, ...options.headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError(0, "the service does not answer; is dgemma serve still running?");
  }
  if (!reply.ok) {
    const told = await reply.json().catch(() => null);
    throw new ServiceError(reply.status, told?.error?.message ?? `the service answered ${reply.status}`);
  }
  return reply;
}

export const get = async (path) => (await ask(path)).json();

/** Every event of POST `path` as [name, data]. Leaving the loop, or `signal`, closes the stream, which ends the request. */
export async function* events(path, body, signal) {
  const headers = { "content-type": "application/json" };
  const reply = await ask(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (waiting + value).split("\n\n");
      waiting = parts.pop();
      for (const part of parts) {
        const found = parse(part);
        if (found) yield found;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** One event; null for comments, which keep a silent connection alive. */
function parse(part) {
  let name = "message";
  const data = [];
  for (const line of part.split("\n")) {
    if (line.startsWith("event: ")) name = line.slice(7);
    else if (line.startsWith("data: ")) data.push(line.slice(6));
  }
  return data.length ? [name, JSON.parse(data.join("\n"))] : null;
}
