// A model's answer as Markdown. The one place where text becomes elements, and it passes through the sanitiser on its way.
// Trap: a picture or a form in an answer could carry what was said elsewhere; neither is among what is let through.

import DOMPurify from "./vendor/dompurify/purify.es.mjs";
import { html, useMemo } from "./vendor/htm-preact/standalone.module.js";
import { marked } from "./vendor/marked/marked.esm.js";

const ALLOWED = {
  ALLOWED_TAGS: [
    "a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "strong",
    "table", "tbody", "td", "th", "thead", "tr", "ul",
  ],
  ALLOWED_ATTR: ["href", "start"],
};

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName !== "A") return;
  node.setAttribute("target", "_blank");
  node.setAttribute("rel", "noopener noreferrer");
});

export function Answer({ text }) {
  const clean = useMemo(() => DOMPurify.sanitize(marked.parse(text, { async: false }), ALLOWED), [text]);
  return html`<div class="markdown" dangerouslySetInnerHTML=${{ __html: clean }}></div>`;
}
