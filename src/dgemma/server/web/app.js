// The page: which task is shown, what runs, what was said. Everything it knows of the model it asks the service.
// Knows no token: canvas.js shows the steps, tasks.js what a task asks and answers, stream.js speaks to the service.
// Trap: events come faster than a screen paints; they are recorded at once and painted once a frame.

import { Canvas } from "./canvas.js";
import { Settings, keep, kept, request } from "./settings.js";
import { events, get, keepKey } from "./stream.js";
import { EMPTY, Form, Message, Result, TASKS, body } from "./tasks.js";
import { Recording } from "./recording.js";
import { html, render, useEffect, useRef, useState } from "./vendor/htm-preact/standalone.module.js";

const FOLLOWED = { row: null, at: null }; // the canvas's place: the newest step of the best candidate
const CALM_MS = 1000; // between two paintings, for whoever wants less motion
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const THEMES = ["auto", "light", "dark"];

/** Whether a key press sends: Ctrl+Enter anywhere, in the chat Enter alone. One that only ends a word of an input method does not. */
function sends(event) {
  if (event.key !== "Enter" || event.isComposing || event.keyCode === 229) return false;
  return event.ctrlKey || event.metaKey || (event.target.name === "said" && !event.shiftKey && !event.altKey);
}

function useTheme() {
  const [theme, set] = useState(localStorage.getItem("dgemma.theme") ?? "auto");
  useEffect(() => {
    document.documentElement.dataset.theme = theme;
    localStorage.setItem("dgemma.theme", theme);
  }, [theme]);
  return [theme, () => set(THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length])];
}

/** What the service says of itself; asked again once there is a key. */
function useProps(setError) {
  const [props, set] = useState(null);
  const load = () => get("/props").then((found) => { set(found); setError(null); }, setError);
  useEffect(() => void load(), []);
  return [props, load];
}

/** A run, painted as it goes. -> [run, begin(task, sent), stop]; run: {task, sent, recording, state, error}. */
function useRun(filler, ended) {
  const [run, set] = useState(null);
  const abort = useRef(null);
  const begin = async (task, sent) => {
    abort.current = new AbortController();
    const { signal } = abort.current;
    const made = { task, sent, recording: new Recording(task, filler), state: "running", error: null };
    let due = false;
    const paint = () => { due = false; set({ ...made }); };
    set({ ...made });
    try {
      for await (const [name, data] of events("/v1/canvas", { task, ...sent }, signal)) {
        if (name === "error") throw new Error(data.message);
        made.recording.take(name, data);
        if (name === "done") break; // what is left of the stream is its end, and the next run need not wait for it
        if (!due) {
          due = true;
          if (calm.matches) setTimeout(paint, CALM_MS);
          else requestAnimationFrame(paint);
        }
      }
      made.state = made.recording.done ? "done" : "stopped";
    } catch (error) {
      made.state = error.name === "AbortError" ? "stopped" : "failed";
      if (made.state === "failed") made.error = error;
    }
    set({ ...made });
    ended(made);
  };
  return [run, begin, () => abort.current?.abort()];
}

function KeyForm({ done }) {
  const enter = (event) => {
    event.preventDefault();
    keepKey(new FormData(event.target).get("key").trim());
    done();
  };
  return html`<form class="key" onSubmit=${enter}><label>This service asks for a key. It stays in this tab.
    <input name="key" type="password" autocomplete="off" required autofocus /></label><button>use it</button></form>`;
}

/** What the model is, where it is one to play with. */
function Demo() {
  return html`<p class="demo" role="note">This is the small demo model that ships with dgemma: it knows a small made-up world and shows how a canvas settles;
    do not rely on what it writes. For another one: <code>dgemma serve -m NAME</code></p>`;
}

function Chat({ messages, run, running, tuned }) {
  const end = useRef(null);
  useEffect(() => end.current?.scrollIntoView?.({ block: "nearest" }), [messages.length, running && run.recording.commits.length]);
  const said = () => run.recording.commits.flatMap((commit) => commit.parts).filter((part) => part.channel === "content");
  return html`<div class="chat" role="log" aria-live="polite">
    ${!messages.length && html`<p class="empty">${tuned ? "Nothing was said yet."
      : "Nothing was said yet. This model is not chat-tuned: it continues text, and may not answer as one would."}</p>`}
    ${messages.map((message) => html`<${Message} message=${message} />`)}
    ${running && html`<article class="message assistant live">${said().map((part) => part.text).join("")}<span class="wait">settling</span></article>`}
    <div ref=${end}></div></div>`;
}

function App() {
  const [task, setTask] = useState(null);
  const [drafts, setDrafts] = useState(EMPTY);
  const [settings, setSettings] = useState(kept);
  const [messages, setMessages] = useState([]);
  const [place, move] = useState(FOLLOWED);
  const [error, setError] = useState(null);
  const [theme, turn] = useTheme();
  const [props, reload] = useProps(setError);
  useEffect(() => void (props && (document.title = `${props.model} – dgemma`)), [props]);
  const shown = task ?? (props && !props.chat_tuned ? "complete" : "chat");
  const usual = props?.default_generation_settings;

  const [run, begin, stop] = useRun([usual?.pad_token_id, ...(usual?.eos_token_id ?? [])], ({ task, recording, state, error }) => {
    setError(error);
    const done = recording.done;
    if (task !== "chat" || (!done && !recording.text)) return;
    const notes = [...(done?.notes ?? []), ...(done?.malformed?.map((call) => `a call that could not be read: ${call}`) ?? [])];
    if (state === "stopped") notes.push("stopped");
    else if (done && !done.text && !done.tool_calls.length) notes.push("the answer is empty");
    setMessages((all) => [...all, { role: "assistant", content: done?.text ?? recording.text, thought: done?.thought, calls: done?.tool_calls, notes }]);
  });
  const running = run?.state === "running";
  const change = (draft) => setDrafts((all) => ({ ...all, [shown]: draft }));

  const send = () => {
    if (running) return;
    try {
      const sent = { ...body(shown, drafts[shown], messages), ...request(settings, shown) };
      setError(null);
      move(FOLLOWED);
      if (shown === "chat") {
        setMessages([...messages, sent.messages.at(-1)]);
        change({ ...EMPTY.chat, system: drafts.chat.system });
      }
      begin(shown, sent);
    } catch (wrong) {
      setError(wrong);
    }
  };

  const frames = run?.recording.frames(place.row ?? run.recording.winner).length ?? 0;
  const press = (event) => {
    if (sends(event)) send();
    else if (event.key === "Escape" && running) stop();
    else if (event.target.matches?.("input, textarea, select") || event.ctrlKey || event.altKey || event.metaKey || !frames) return;
    else {
      const at = Math.min(place.at ?? frames - 1, frames - 1);
      const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: frames - 1 }[event.key];
      if (to === undefined) return;
      move({ ...place, at: Math.min(Math.max(to, 0), frames - 1) });
    }
    event.preventDefault();
  };
  const newest = useRef(press);
  newest.current = press; // an effect of each rendering would come a moment too late for whoever types fast
  useEffect(() => void addEventListener("keydown", (event) => newest.current(event)), []);

  const tab = (name) => html`<button type="button" role="tab" id=${`tab-${name}`} aria-selected=${name === shown} onClick=${() => setTask(name)}>${name}</button>`;
  const mine = run?.task === shown ? run : null;
  return html`
    <header><h1>dgemma</h1><p class="name" title=${props ? `the model: ${props.model}` : ""}>${props?.model}</p><div role="tablist" aria-label="task">${TASKS.map(tab)}</div>
      <button type="button" class="theme" onClick=${turn} aria-label=${`colours: ${theme}`}>${{ auto: "◐", light: "☀", dark: "☾" }[theme]} ${theme}</button></header>
    ${props?.demo && html`<${Demo} />`}
    <main>
      <section class="work" role="tabpanel" aria-labelledby=${`tab-${shown}`}>
        ${shown === "chat" && html`<${Chat} messages=${messages} run=${run} running=${running && mine} tuned=${!props || props.chat_tuned} />`}
        <${Form} task=${shown} draft=${drafts[shown]} change=${change} />
        <div class="actions">
          ${running ? html`<button type="button" class="main" onClick=${stop}>stop <kbd>Esc</kbd></button>`
            : html`<button type="button" class="main" onClick=${send} disabled=${!props}>${shown === "chat" ? "send" : shown} <kbd>${shown === "chat" ? "Enter" : "Ctrl+Enter"}</kbd></button>`}
          ${shown === "chat" && messages.length > 0 && html`<button type="button" disabled=${running} onClick=${() => setMessages([])}>new chat</button>`}
          ${mine?.state === "stopped" && html`<span class="hint">stopped</span>`}
        </div>
        ${error?.status === 401 ? html`<${KeyForm} done=${reload} />` : error && html`<p class="error" role="alert">${error.message}</p>`}
        ${mine && shown !== "chat" && html`<${Result} run=${mine} change=${change} />`}
        ${mine?.recording.done && shown !== "chat" && mine.recording.done.notes.map((note) => html`<p class="hint">${note}</p>`)}
      </section>
      <div class="side">
        <${Canvas} recording=${mine?.recording ?? null} place=${place} move=${move} />
        <details class="panel"><summary>model and sampler</summary>
          <${Settings} settings=${settings} change=${(next) => { setSettings(next); keep(next); }} task=${shown} props=${props} /></details>
        <p class="hint keys">${shown === "chat" ? html`<kbd>Enter</kbd> sends, <kbd>Shift+Enter</kbd> breaks the line` : html`<kbd>Ctrl+Enter</kbd> sends`}, <kbd>Esc</kbd> stops, <kbd>←</kbd> <kbd>→</kbd> step through the canvas</p>
      </div>
    </main>`;
}

render(html`<${App} />`, document.getElementById("page"));
