// The canvas and the scrubber over its steps. One span per token, of which a step touches only those that differ.
// Knows a recording, no task. Trap: the spans are ours, not preact's: their parent must stay the same element, and childless to it.

import { html, useEffect, useRef, useState } from "./vendor/htm-preact/standalone.module.js";
import { Cursor } from "./recording.js";

const REPLAY_MS = 120;
const LEGEND = ["noise", "draft", "accepted", "committed", "pinned"];

function paint(box, cells, old) {
  cells.forEach((cell, at) => {
    const was = old[at];
    const span = box.children[at] ?? box.appendChild(document.createElement("span"));
    if (was?.text !== cell.text) span.textContent = cell.text;
    if (was?.kind !== cell.kind) span.className = cell.kind;
  });
  while (box.children.length > cells.length) box.lastElementChild.remove();
}

function Tokens({ recording, row, at, settled }) {
  const box = useRef(null), state = useRef({ cells: [] });
  useEffect(() => {
    const kept = state.current;
    if (kept.cursor?.recording !== recording || kept.cursor?.row !== row) kept.cursor = new Cursor(recording, row);
    const cells = kept.cursor.go(at);
    paint(box.current, cells, kept.cells);
    kept.cells = cells;
  }, [recording, row, at, settled]);
  const tell = (event) => {
    const place = [...box.current.children].indexOf(event.target);
    const cell = state.current.cells[place];
    if (cell) event.target.title = `position ${place}, ${cell.kind}, ${cell.entropy.toFixed(2)} nats`;
  };
  return html`<span class="tokens" ref=${box} onPointerOver=${tell}></span>`;
}

/** Mean entropy of every step: how far from settled each canvas was. */
function Entropy({ frames, at }) {
  const most = Math.max(0.1, ...frames.map((frame) => frame.mean_entropy));
  const bar = (frame, place) => {
    const height = Math.max(0.6, (frame.mean_entropy / most) * 24);
    return html`<rect x=${place} y=${24 - height} width="0.8" height=${height} class=${place === at ? "here" : ""} />`;
  };
  return html`<svg class="entropy" viewBox="0 0 ${Math.max(1, frames.length)} 24" preserveAspectRatio="none" aria-hidden="true">
    ${frames.map(bar)}
  </svg>`;
}

/** `place`: {row, at}, where at is null while the newest step is followed. */
export function Canvas({ recording, place, move }) {
  const [playing, play] = useState(false);
  const rows = recording ? [...recording.rows.keys()].sort((a, b) => a - b) : [];
  const row = place.row ?? recording?.winner ?? 0;
  const frames = recording?.frames(row) ?? [];
  const last = frames.length - 1;
  const at = Math.min(place.at ?? last, last);
  const frame = frames[at];
  useEffect(() => {
    if (!playing) return undefined;
    const timer = setTimeout(() => (at < last ? move({ row, at: at + 1 }) : play(false)), REPLAY_MS);
    return () => clearTimeout(timer);
  }, [playing, at, last]);
  const start = () => {
    if (at >= last) move({ row, at: 0 });
    play(!playing);
  };
  const before = frame ? recording.commits.slice(0, frame.canvas).map((commit) => commit.text).join("") : "";
  const choose = (other) => html`<button type="button" aria-pressed=${other === row} onClick=${() => move({ row: other, at: null })}>
    candidate ${other + 1}${recording.settled(other) ? " ✓" : ""}</button>`;
  return html`<section class="panel" aria-label="canvas">
    <div class="legend" aria-hidden="true">${LEGEND.map((kind) => html`<span class=${kind}>${kind}</span>`)}</div>
    ${rows.length > 1 && html`<div class="rows" role="group" aria-label="candidates">${rows.map(choose)}</div>`}
    <div class="canvas" role="group" tabindex="0" aria-label=${frame ? `canvas ${frame.canvas + 1}, step ${frame.step}` : "no canvas yet"}>
      ${!frame && html`<p class="empty">${recording ? "waiting for the first step …" : "A canvas of noise settles here, step by step."}</p>`}
      ${before && html`<span class="committed">${before}</span>`}
      ${frame && html`<${Tokens} recording=${recording} row=${row} at=${at} settled=${recording.settled(row)} />`}
    </div>
    <div class="scrubber">
      <button type="button" class="icon" disabled=${last < 1} onClick=${start} aria-label=${playing ? "pause" : "replay"}>${playing ? "❚❚" : "▶"}</button>
      <div class="track">
        <${Entropy} frames=${frames} at=${at} />
        <input id="scrubber" type="range" min="0" max=${Math.max(0, last)} value=${Math.max(0, at)} disabled=${last < 1} aria-label="step"
          aria-valuetext=${frame ? `canvas ${frame.canvas + 1}, step ${frame.step}` : ""}
          onInput=${(event) => move({ row, at: +event.target.value })} />
      </div>
      <button type="button" class="icon" disabled=${last < 1 || place.at === null} onClick=${() => move({ row: place.row, at: null })} aria-label="newest step">⇥</button>
    </div>
    <${Figures} recording=${recording} row=${row} frame=${frame} />
  </section>`;
}

function Figures({ recording, row, frame }) {
  const found = recording?.figures(row);
  const rounded = (value, digits = 1) => (value === null || value === undefined ? "–" : value.toFixed(digits));
  const all = [
    ["canvas", frame ? frame.canvas + 1 : "–"], ["step", frame ? frame.step : "–"], ["steps in all", found?.steps || "–"],
    ["ms per step", rounded(found?.ms)], ["tokens/s", rounded(found?.rate)], ["nats", rounded(frame?.mean_entropy, 3)],
  ];
  return html`<dl class="figures">${all.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}
