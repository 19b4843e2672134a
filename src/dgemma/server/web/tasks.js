// What each task asks for and shows: its form, the body of its request, its result.
// Knows no stream. A form gets `draft` (its fields) and `change`; Trap: the service counts characters, the browser UTF-16 units.

import { Answer } from "./answer.js";
import { Diff } from "./diff.js";
import { html, useEffect, useRef } from "./vendor/htm-preact/standalone.module.js";

export const TASKS = ["chat", "complete", "infill", "edit"];

export const EMPTY = {
  chat: { said: "", system: "" },
  complete: { prompt: "def fibonacci(n):\n" },
  infill: { prefix: "def area(r):\n    ", suffix: "\n\n\nprint(area(2))\n" },
  edit: { document: "def area(r):\n    return 3\n\n\nprint(area(2))\n", instruction: "", selected: [0, 0] },
};

const characters = (text, units) => [...text.slice(0, units)].length;

/** The body of a request. Throws an Error where something is missing. */
export function body(task, draft, messages) {
  if (task === "chat") {
    if (!draft.said.trim()) throw new Error("say something first");
    const system = draft.system.trim() ? [{ role: "system", content: draft.system }] : [];
    const before = messages.map(({ role, content }) => ({ role, content }));
    return { messages: [...system, ...before, { role: "user", content: draft.said }] };
  }
  if (task === "complete") return { prompt: draft.prompt };
  if (task === "infill") return { prefix: draft.prefix, suffix: draft.suffix };
  const [start, end] = draft.selected.map((at) => characters(draft.document, at));
  if (start === end && !draft.instruction.trim()) throw new Error("select what is to be written anew, or say what to change");
  const asked = { document: draft.document };
  if (draft.instruction.trim()) asked.instruction = draft.instruction;
  if (start !== end) asked.spans = [[start, end]];
  return asked;
}

function Field({ name, label, rows, value, set, focus, ...rest }) {
  const box = useRef(null);
  useEffect(() => focus && box.current.focus(), []);
  return html`<label class="field">${label}
    <textarea name=${name} rows=${rows} value=${value} spellcheck="false" ref=${box} onInput=${(event) => set(event.target.value)} ...${rest} /></label>`;
}

export function Form({ task, draft, change }) {
  const field = (name, label, rows, more) => html`<${Field} key=${task + name} name=${name} label=${label} rows=${rows} value=${draft[name]}
    set=${(value) => change({ ...draft, [name]: value })} ...${more} />`;
  if (task === "chat") return html`
    ${field("said", "message", 3, { focus: true, spellcheck: true, enterkeyhint: "send" })}
    <details class="system"><summary>system prompt${draft.system.trim() && " (set)"}</summary>
      ${field("system", "instructions that come before the conversation", 3, { spellcheck: true })}</details>`;
  if (task === "complete") return field("prompt", "text to continue", 8, { focus: true });
  if (task === "infill") return html`${field("prefix", "before the gap", 6, { focus: true })}${field("suffix", "behind the gap", 6)}`;
  const select = ({ target }) => change({ ...draft, document: target.value, selected: [target.selectionStart, target.selectionEnd] });
  const [start, end] = draft.selected;
  return html`
    ${field("document", "document", 10, { onInput: select, onSelect: select, onKeyUp: select, onMouseUp: select })}
    <p class="hint">${start === end ? "Select what may change; without a selection the model looks for it itself."
      : `Only characters ${start}–${end} may change; all else is pinned.`}</p>
    ${field("instruction", "what to change", 2)}`;
}

const copy = (text) => html`<button type="button" onClick=${() => navigator.clipboard?.writeText(text)}>copy</button>`;

export function Result({ run, change }) {
  const { task, sent, recording } = run;
  const done = recording.done;
  if (task === "complete") {
    const text = done ? done.text : recording.text;
    return html`<pre class="text" aria-live="polite"><span class="given">${sent.prompt}</span><ins>${text}</ins></pre>
      <div class="actions">${done && copy(sent.prompt + text)}
      ${done && html`<button type="button" onClick=${() => change({ prompt: sent.prompt + text })}>continue from here</button>`}</div>`;
  }
  if (task === "infill") {
    const whole = sent.prefix + (done?.text ?? "") + sent.suffix;
    return html`<pre class="text" aria-live="polite"><span class="given">${sent.prefix}</span>${done ? html`<ins>${done.text}</ins>`
      : html`<span class="gap">…</span>`}<span class="given">${sent.suffix}</span></pre>
      <div class="actions">${done && copy(whole)}</div>`;
  }
  if (!done) return html`<p class="hint" aria-live="polite">${recording.changes.length} spans have settled.</p>`;
  const take = () => change({ ...EMPTY.edit, document: done.text });
  return html`<${Diff} diff=${done.diff} />
    <div class="actions">${copy(done.text)}<button type="button" onClick=${take}>use as the document</button></div>`;
}

export function Message({ message }) {
  const { role, content, thought, calls = [], notes = [] } = message;
  return html`<article class="message ${role}" aria-label=${role}>
    ${thought && html`<details><summary>thought</summary><pre>${thought}</pre></details>`}
    ${role === "assistant" ? html`<${Answer} text=${content} />` : html`<p>${content}</p>`}
    ${calls.map((call) => html`<pre class="call">${call.name}(${JSON.stringify(call.arguments)})</pre>`)}
    ${notes.map((note) => html`<p class="hint">${note}</p>`)}
  </article>`;
}
