// Draws the messages of a conversation, and what can be done with each.

import {button, copyText, h, isComposing, redraw} from "./dom.js";
import {isUnfinished} from "./conversation.js";
import {markdown} from "./markdown.js";
import {thumbnail} from "./pictures.js";
import {countText, say, sayError} from "./words.js";

const NEAR_PX = 80;
const BLANK = /^picture (\d+) has only one colour, (#[0-9a-f]{6})/;

/**
 * A list of messages on the screen.
 *
 * `actions` holds what the buttons do: edit(message, text), again(message), goOn(message).
 */
export class MessageList {
  constructor(element, store, actions) {
    this.element = element;
    this.store = store;
    this.actions = actions;
    this.due = null;
    this.drawings = 0;
  }

  /** Draw all messages; `busy` keeps back what would ask once more. */
  async draw(messages, busy) {
    const drawing = ++this.drawings;
    const drawn = [];
    for (const [at, message] of messages.entries()) {
      const last = message === messages.at(-1);
      drawn.push(await this.#drawn(message, {busy, last, asked: messages[at - 1]?.role === "user"}));
    }
    if (drawing !== this.drawings) return;  // a later one is drawn
    redraw(this.element, drawn.map((item) => this.#edited(item.dataset.id) ?? item));
  }

  /** Return a message in which somebody is writing. */
  #edited(id) {
    return this.element.querySelector(`[data-id="${id}"] > form.edit`)?.parentElement;
  }

  /** Draw what came of an answer; many pieces of it are drawn together. */
  grow(message) {
    this.growing = message;
    this.due ??= requestAnimationFrame(() => {
      this.due = null;
      const body = this.element.querySelector(`[data-id="${this.growing.id}"] .body`);
      if (body) body.replaceChildren(answerBody(this.growing));
    });
  }

  async #drawn(message, where) {
    const own = message.role === "user";
    const pictures = [];
    for (const picture of message.pictures) {
      pictures.push(thumbnail(picture, await this.store.picture(picture.id)));
    }
    const body = h("div", {class: own ? "body own" : "body"},
      own ? message.text : answerBody(message));
    const item = h("li", {class: `message ${message.role}`, "data-id": message.id,
      "data-state": message.state},
      h("h2", {class: own ? "unseen" : "who"}, own ? say("you") : message.model || say("model")),
      pictures.length ? h("div", {class: "thumbnails"}, ...pictures) : null,
      message.text || !own ? body : null,
      ...(own ? [] : notes(message)));
    item.append(h("div", {class: "actions"}, ...this.#actions(message, item, where)));
    return item;
  }

  #actions(message, item, {busy, last, asked}) {
    if (message.state === "running") return [];
    const {goOn, again} = this.actions;
    const made = [];
    if (isUnfinished(message) && last && !busy && (message.text || asked)) {
      made.push(button(say("goOn"), () => goOn(message), {class: "strong"}));
    }
    if (message.text) made.push(copyButton(message));
    if (busy) return made;
    if (message.role === "user") made.push(button(say("edit"), () => this.#edit(message, item)));
    else if (asked) made.push(button(say("again"), () => again(message)));
    return made;
  }

  #edit(message, item) {
    const field = h("textarea", {"aria-label": say("editing"), dir: "auto", rows: "3"});
    field.value = message.text;
    const body = [...item.children];
    const end = () => { form.replaceWith(...body.filter((part) => !part.matches(".kept"))); };
    const form = h("form", {class: "edit", onsubmit: (event) => {
      event.preventDefault();
      this.actions.edit(message, field.value.trim());
    }}, field, h("div", {class: "row"},
      h("button", {class: "primary"}, say("save")), button(say("cancel"), end)));
    field.addEventListener("keydown", (event) => {
      if (isComposing(event)) return;
      if (event.key === "Escape") end();
      if (event.key === "Enter" && !event.shiftKey) {
        event.preventDefault();
        form.requestSubmit();
      }
    });
    item.querySelector(".thumbnails")?.classList.add("kept");
    item.querySelector("h2").classList.add("kept");
    for (const part of body) if (!part.matches(".kept")) part.remove();
    item.append(form);
    field.focus();
  }
}

/** Let a list's end stay in sight while it grows, unless somebody scrolled away from it. */
export function followEnd(scroller, list) {
  const state = {follow: true};
  const end = () => scroller.scrollHeight - scroller.clientHeight;
  let seen = end();
  scroller.addEventListener("scroll", () => {
    // What scrolls because the list became longer or shorter is nobody's wish.
    if (end() === seen) state.follow = end() - scroller.scrollTop < NEAR_PX;
  });
  new ResizeObserver(() => {
    seen = end();
    if (state.follow) scroller.scrollTop = seen;
  }).observe(list);
  return state;
}

function answerBody(message) {
  if (message.text) return markdown(message.text);
  return h("p", {class: "muted"}, say(message.state === "running" ? "thinking" : "nothing"));
}

const isLost = ({error}) => !error || error.code === "network";

/** Return how an answer ended, in words. */
export function endText(message) {
  if (message.state === "whole") return say("answered");
  return say(message.state === "broken" && isLost(message) ? "lost" : message.state);
}

function notes(message) {
  const made = [];
  for (const warning of message.warnings ?? []) {
    const [, number, colour] = BLANK.exec(warning) ?? [];
    made.push(h("p", {class: "note warn"}, number ? say("blank", {number, colour}) : warning));
  }
  if (isUnfinished(message)) made.push(h("p", {class: "note warn"}, endText(message)));
  if (message.state === "broken" && !isLost(message)) {
    made.push(h("p", {class: "note warn"}, sayError(message.error)));
  }
  if (message.speed && message.state !== "running") {
    const {tokens, rate, first} = message.speed;
    made.push(h("p", {class: "note speed"}, say("speed",
      {tokens: countText(tokens), rate: rate.toFixed(1), first: first.toFixed(2)})));
  }
  return made;
}

function copyButton(message) {
  const made = button(say("copy"), async () => {
    made.textContent = say(await copyText(message.text) ? "copied" : "copyFailed");
    setTimeout(() => { made.textContent = say("copy"); }, 2000);
  });
  return made;
}
