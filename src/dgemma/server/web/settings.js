// The sampler's settings and whatever else a request may carry, as a form. An empty field is not sent: the model's own holds.
// Knows names and ranges, no task but for whom a field is. Kept in localStorage, which holds no text and no key.

import { html } from "./vendor/htm-preact/standalone.module.js";

const KEPT = "dgemma.settings";
const ALL = ["chat", "complete", "infill", "edit"];

// name, label, tasks, and how its text becomes a value
const FIELDS = [
  ["max_tokens", "most tokens", ["chat", "complete", "infill"], whole],
  ["widths", "gap widths to try", ["infill"], (text) => text.split(/[\s,]+/).filter(Boolean).map(whole)],
  ["seed", "seed", ALL, whole],
  ["max_denoising_steps", "most steps", ALL, whole],
  ["entropy_bound", "entropy bound", ALL, number],
  ["t_max", "temperature, first step", ALL, number],
  ["t_min", "temperature, last step", ALL, number],
  ["stability_threshold", "stable for (steps)", ALL, whole],
  ["confidence_threshold", "confidence", ALL, number],
  ["canvas_width", "canvas width", ALL, whole],
];

function number(text) {
  if (text.trim() === "" || !Number.isFinite(+text)) throw new Error(`'${text}' is no number`);
  return +text;
}

function whole(text) {
  if (!Number.isSafeInteger(number(text))) throw new Error(`'${text}' is no whole number`);
  return +text;
}

export function kept() {
  try {
    return JSON.parse(localStorage.getItem(KEPT)) ?? {};
  } catch {
    return {};
  }
}

export const keep = (settings) => localStorage.setItem(KEPT, JSON.stringify(settings));

/** The fields of a request of `task`. Throws an Error that names the field. */
export function request(settings, task) {
  const body = {};
  for (const [name, label, tasks, read] of FIELDS) {
    if (!settings[name]?.trim() || !tasks.includes(task)) continue;
    try {
      body[name] = read(settings[name]);
    } catch (error) {
      throw new Error(`${label}: ${error.message}`);
    }
  }
  if (settings.preset) body.preset = settings.preset;
  if (settings.ignore_after_end) body.ignore_after_end = true;
  if (settings.thinking && task === "chat") body.thinking = true;
  return body;
}

export function Settings({ settings, change, task, props }) {
  const set = (name, value) => change({ ...settings, [name]: value });
  const defaults = props?.default_generation_settings ?? {};
  const usual = {
    ...defaults, entropy_bound: defaults.sampler_config?.entropy_bound, canvas_width: props?.canvas_length,
    max_tokens: defaults.max_new_tokens, seed: "drawn", widths: "4 8 16 …",
  };
  const field = ([name, label]) => html`<label>${label}
    <input name=${name} inputmode=${name === "widths" ? "text" : "decimal"} autocomplete="off" value=${settings[name] ?? ""}
      placeholder=${usual[name] ?? ""} onInput=${(event) => set(name, event.target.value)} /></label>`;
  const tick = (name, label) => html`<label class="tick"><input type="checkbox" name=${name} checked=${settings[name]}
    onChange=${(event) => set(name, event.target.checked)} />${label}</label>`;
  return html`<form class="settings" aria-label="settings" onSubmit=${(event) => event.preventDefault()}>
    <label>preset <select name="preset" value=${settings.preset ?? ""} onChange=${(event) => set("preset", event.target.value)}>
      <option value="">none</option>${props?.presets?.map((name) => html`<option>${name}</option>`)}</select></label>
    ${FIELDS.filter(([, , tasks]) => tasks.includes(task)).map(field)}
    ${tick("ignore_after_end", "ignore what moves behind the end")}
    ${task === "chat" && tick("thinking", "think first")}
    <button type="button" onClick=${() => change({})}>reset</button>
    <dl class="model">
      <dt>model</dt><dd>${props?.model} (dgemma ${props?.version})</dd>
      <dt>context</dt><dd>${props?.n_ctx?.toLocaleString("en")} tokens, canvases of ${props?.canvas_length}</dd>
      ${props?.notes?.map((note) => html`<dt>note</dt><dd>${note}</dd>`)}
    </dl>
  </form>`;
}
