// Elements, without a line of HTML in text.

export const byId = (id) => document.getElementById(id);

/** Make an element: attributes by name, then children, which are elements or text. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") element.addEventListener("click", value);
    else if (value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

/** Replace a legend's entries: [kind, colour variable, name, value]. */
export function legend(list, entries) {
  list.replaceChildren(...entries.map(([kind, colour, name, value]) => {
    const mark = make("i", { class: kind });
    mark.style.setProperty("--c", `var(--${colour})`);
    return make("li", {}, mark, name, ...(value === undefined ? [] : [" ", make("b", {}, value)]));
  }));
}

/** What is kept for as long as the tab lives; nothing where the browser forbids it. */
export const session = {
  get(name) { try { return sessionStorage.getItem(`steelyard.${name}`); } catch { return null; } },
  set(name, value) { try { sessionStorage.setItem(`steelyard.${name}`, value); } catch { /* it lives in the page alone */ } },
  remove(name) { try { sessionStorage.removeItem(`steelyard.${name}`); } catch { /* as above */ } },
};
