// Short texts that the browser keeps for this page, or for this tab of it.

import {newId} from "./dom.js";

/** Where the page is. One host may have several servers, by paths: each has its own records. */
export const PLACE = new URL(".", location.href).pathname;

/** Return what the browser keeps under a name, or null. */
export function recalled(storage, name) {
  try {
    return window[storage].getItem(`${name} ${PLACE}`);
  } catch {
    return null;  // the browser keeps nothing for pages
  }
}

/** Let the browser keep a text under a name, where it does such a thing. */
export function remember(storage, name, text) {
  try {
    window[storage].setItem(`${name} ${PLACE}`, text);
  } catch {
    // said aloud already
  }
}

/** Let the browser keep a text no longer. */
export function forget(storage, name) {
  try {
    window[storage].removeItem(`${name} ${PLACE}`);
  } catch {
    // it kept nothing
  }
}

/** The name of this tab. A duplicate has what its original kept, but only a reload stays who it was. */
export const TAB = (isReload() && recalled("sessionStorage", "tab")) || newId();

function isReload() {
  return performance.getEntriesByType("navigation")[0]?.type === "reload";
}
