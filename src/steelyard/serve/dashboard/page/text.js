// An answer's text as elements: fenced code, inline code and bold; everything else as it is.

import { make } from "./dom.js";

/** Return elements for a text; a fence that is still open counts as closed. */
export function render(text, copyButton) {
  const parts = text.split(/^```/m);
  return parts.map((part, at) => (at % 2 ? code(part, copyButton) : make("span", {}, ...inline(trimmed(part, at, parts.length)))));
}

/** Without the blank lines next to a fence, which has space around it. */
function trimmed(part, at, count) {
  const begun = at ? part.replace(/^\s*\n/, "") : part;
  return at < count - 1 ? begun.trimEnd() : begun;
}

function code(part, copyButton) {
  const body = part.slice(part.indexOf("\n") + 1).trimEnd();
  return make("pre", { tabindex: "0" }, copyButton(body), make("code", {}, body));
}

function inline(text) {
  return text.split(/(`[^`\n]+`|\*\*[^*\n]+\*\*)/).map((part) => {
    if (part.length > 2 && part.startsWith("`")) return make("code", {}, part.slice(1, -1));
    if (part.length > 4 && part.startsWith("**")) return make("strong", {}, part.slice(2, -2));
    return part;
  });
}
