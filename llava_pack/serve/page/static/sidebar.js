// The list of conversations, beside the one that is open; on a phone it slides in.

import {$, button, h, isComposing, redraw} from "./dom.js";
import {titleOf} from "./conversation.js";
import {say} from "./words.js";

const NARROW = matchMedia("(max-width: 52rem)");

/** Wire what opens and closes the list on a narrow screen. */
export function wireSidebar() {
  const side = $("side");
  const show = (open) => {
    side.classList.toggle("open", open);
    side.inert = NARROW.matches && !open;
    $("stage").inert = NARROW.matches && open;
    $("side-open").setAttribute("aria-expanded", String(open));
  };
  const close = () => {
    if (!side.classList.contains("open")) return;
    show(false);
    $("side-open").focus();
  };
  $("side-open").addEventListener("click", () => {
    show(true);
    $("side-close").focus();
  });
  $("side-close").addEventListener("click", close);
  side.addEventListener("keydown", (event) => { if (event.key === "Escape" && !isComposing(event)) close(); });
  NARROW.addEventListener("change", () => show(false));
  show(false);
  return close;
}

/** Draw the list; the open one is marked. */
export function drawList(conversations, current, {open, remove}) {
  redraw($("list"), conversations.map((each) => {
    const title = titleOf(each);
    return h("li", {"data-id": each.id},
      h("button", {type: "button", class: "pick", dir: "auto", title, onclick: () => open(each.id),
        "aria-current": each.id === current ? "true" : null}, title),
      button(say("removeNamed", {title}), () => remove(each.id), {sign: "✕", class: "quiet"}));
  }));
}
