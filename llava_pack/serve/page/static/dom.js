// Builds elements. Text is only ever text: nothing here, or anywhere else, parses HTML.

/** Return an element: attributes by name, "on…" listeners, and children or texts within it. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** Return a button that has words, and where `sign` is given, shows that in their place. */
export function button(words, onclick, {sign = null, ...attributes} = {}) {
  const shown = sign === null ? {} : {"aria-label": words, title: words};
  return h("button", {type: "button", onclick, ...shown, ...attributes},
    sign === null ? words : h("span", {"aria-hidden": "true"}, sign));
}

export const $ = (id) => document.getElementById(id);

/** Return whether a key belongs to what an input method is about to write. Safari tells by 229. */
export const isComposing = (event) => event.isComposing || event.keyCode === 229;

/**
 * Put other children into an element, and touch none that stays. What had the focus and was drawn
 * anew has it again: it is found by the record that it belongs to, and by its name.
 */
export function redraw(element, children) {
  const held = element.contains(document.activeElement) ? document.activeElement : null;
  const record = held?.closest("[data-id]")?.dataset.id;
  for (const old of [...element.children]) if (!children.includes(old)) old.remove();
  children.forEach((child, at) => {
    if (element.children[at] !== child) element.insertBefore(child, element.children[at] ?? null);
  });
  if (held === null || held.isConnected) return;
  const named = (each) => each.getAttribute("aria-label") ?? each.textContent;
  [...element.querySelectorAll(`[data-id="${record}"] ${held.localName}`)]
    .find((each) => named(each) === named(held))?.focus({preventScroll: true});
}

/** Put text on the clipboard; return whether that worked. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);  // there only where the address is trustworthy
    return true;
  } catch {
    const field = h("textarea", {class: "unseen", "aria-hidden": "true"});
    field.value = text;
    (document.querySelector("dialog[open]") ?? document.body).append(field);
    field.select();
    const worked = document.execCommand("copy");
    field.remove();
    return worked;
  }
}

/** Give the browser a file to keep. */
export function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], {type}));
  h("a", {href: url, download: name}).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** Return a name that nothing else has; it works also where no address is trustworthy. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
