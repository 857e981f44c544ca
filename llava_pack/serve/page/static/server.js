// How the server is: asked every few seconds, shown in a line, and said aloud when it is away.

import {askFacts, countTokens} from "./api.js";
import {apiMessages} from "./conversation.js";
import {$, button, h} from "./dom.js";
import {LANGUAGE, countText, say} from "./words.js";

const EVERY_MS = 5000;

/** Show a notice in its place; `null` takes it away. */
export function notice(place, text, {kind = "info", actions = []} = {}) {
  const shown = $("notices").querySelector(`[data-place="${place}"]`);
  if (place === "server" && shown?.dataset.text === text) return;  // it is said once, not each time
  shown?.remove();
  if (text === null) return;
  const close = button(say("close"), () => notice(place, null), {sign: "✕", class: "quiet"});
  $("notices").append(h("div", {class: `notice ${kind}`, "data-place": place, "data-text": text},
    h("span", {dir: "auto"}, text),
    ...actions.map(([words, act]) => button(words, () => { notice(place, null); act(); }, {class: "strong"})),
    close));
}

/** Asks for the facts again and again; `login` is called for with what was written kept. */
export class Server {
  constructor(onFacts, login) {
    this.facts = null;
    this.onFacts = onFacts;
    this.login = login;
    this.first = new Promise((resolve) => { this.heard = resolve; });
  }

  /** Return what the server takes, as soon as it has told. */
  async limits() {
    await this.first;
    return this.facts.limits;
  }

  async watch() {
    await this.look();
    setInterval(() => { if (!document.hidden) this.look(); }, EVERY_MS);
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.look(); });
    window.addEventListener("online", () => this.look());
  }

  async look() {
    try {
      this.facts = await askFacts();
      notice("server", null);
      this.heard();
      this.onFacts(this.facts);
    } catch (error) {
      $("status").textContent = "";
      if (error.status === 401) {
        notice("server", say("loggedOut"), {kind: "warn", actions: [[say("login"), this.login]]});
      } else {
        notice("server", say("unreachable"), {kind: "warn"});
      }
    }
  }

  /**
   * Ask how long a conversation is of which no answer told it: it broke off, or was brought in.
   * What came of it is kept, since all pictures are sent for it; return whether anything did.
   */
  async count(conversation, messages, store) {
    const isKnown = messages.some((each) => each.usage || each.state === "running");
    if (!messages.length || isKnown || conversation.countedAt === messages.length) return false;
    await this.limits();
    const model = this.model(conversation.model);
    if (model?.phase !== "ready") return false;
    Object.assign(conversation, {counted: null, countedAt: messages.length});
    const counted = await countTokens(model.name, () => apiMessages(conversation, messages, store));
    if (counted === null) return false;
    await store.change("conversations", conversation, {counted, countedAt: messages.length});
    return true;
  }

  /** Return a model by name, or the first one. */
  model(name) {
    const models = this.facts?.models ?? [];
    return models.find((each) => each.name === name) ?? models[0];
  }
}

/** Show the models to choose from, and how the chosen one is. */
export function drawModel(models, chosen) {
  const select = $("model");
  const names = models.map((each) => each.name);
  if (names.join("\n") !== [...select.options].map((each) => each.value).join("\n")) {
    select.replaceChildren(...names.map((name) => h("option", {value: name}, name)));
  }
  select.hidden = names.length < 2;
  if (chosen) select.value = chosen.name;
  $("status").textContent = chosen ? statusText(chosen) : "";
}

function statusText(model) {
  const facts = [model.name];
  if (model.phase === "ready") {
    facts.push(say("on", model), say("queue", model));
  } else {
    const loaded = model.loaded === null || model.phase !== "loading" ? ""
      : ` ${Math.floor(100 * model.loaded)} %`;
    facts.push(model.words[LANGUAGE] + loaded);
  }
  return facts.join(" · ");
}

/** Show how full the context is, where that is known. */
export function drawContext(used, all) {
  $("context").hidden = !(used && all);
  if ($("context").hidden) return;
  $("context-meter").value = used / all;
  $("context-text").textContent = say("context", {used: countText(used), all: countText(all)});
}
