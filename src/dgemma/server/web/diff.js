// A unified diff, shown: line numbers, what went and what came, and within a changed line the part that differs.
// Knows only the text of a diff. Trap: a line "\ No newline at end of file" belongs to the line before and is no line of a file.

import { html } from "./vendor/htm-preact/standalone.module.js";

/** [{kind: "head" | "same" | "gone" | "new" | "remark", text, old, now}]; old and now are line numbers. */
export function parse(diff) {
  const rows = [];
  let old = 0, now = 0;
  for (const line of diff.replace(/\n$/, "").split("\n")) {
    const hunk = /^@@ -(\d+)(?:,\d+)? \+(\d+)/.exec(line);
    if (hunk) {
      [old, now] = [+hunk[1], +hunk[2]];
      rows.push({ kind: "head", text: line });
    } else if (!old && !now) continue; // the names of the files
    else if (line.startsWith("-")) rows.push({ kind: "gone", text: line.slice(1), old: old++ });
    else if (line.startsWith("+")) rows.push({ kind: "new", text: line.slice(1), now: now++ });
    else if (line.startsWith("\\")) rows.push({ kind: "remark", text: line.slice(2) });
    else rows.push({ kind: "same", text: line.slice(1), old: old++, now: now++ });
  }
  pair(rows);
  return rows;
}

/** Lines that went and came in equal number are pairs: `from` and `to` bound what differs in each. */
function pair(rows) {
  for (let at = 0; at < rows.length; at++) {
    if (rows[at].kind !== "gone") continue;
    let middle = at, end;
    while (rows[middle]?.kind === "gone") middle++;
    for (end = middle; rows[end]?.kind === "new"; ) end++;
    if (middle - at === end - middle) for (let i = at; i < middle; i++) differ(rows[i], rows[i + middle - at]);
    at = end - 1;
  }
}

function differ(a, b) {
  const least = Math.min(a.text.length, b.text.length);
  let head = 0, tail = 0;
  while (head < least && a.text[head] === b.text[head]) head++;
  while (tail < least - head && a.text.at(-1 - tail) === b.text.at(-1 - tail)) tail++;
  for (const row of [a, b]) [row.from, row.to] = [head, row.text.length - tail];
}

export function Diff({ diff }) {
  if (!diff) return html`<p class="empty">Nothing changed.</p>`;
  const line = (row) => {
    const { text, from, to } = row;
    const marked = from === undefined ? text : [text.slice(0, from), html`<mark>${text.slice(from, to)}</mark>`, text.slice(to)];
    const sign = { gone: "−", new: "+", same: " " }[row.kind] ?? "";
    return html`<div class="line ${row.kind}"><i>${row.old}</i><i>${row.now}</i><b>${sign}</b><code>${marked}</code></div>`;
  };
  return html`<div class="diff" role="region" aria-label="difference" tabindex="0">${parse(diff).map(line)}</div>`;
}
