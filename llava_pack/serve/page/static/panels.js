// The two panels: settings, and how a program uses the server.

import {$, button, copyText, h} from "./dom.js";
import {recalled, remember} from "./kept.js";
import {say} from "./words.js";

// Source: haotian-liu/LLaVA, llava/serve/gradio_web_server.py: the sliders of its page.
const DEFAULTS = {temperature: 0.2, top_p: 0.7, max_tokens: 512, seed: ""};
const KEY = "settings";

/** Return the settings that hold in this browser. */
export function settings() {
  try {
    return {...DEFAULTS, ...JSON.parse(recalled("localStorage", KEY) ?? "{}")};
  } catch {
    return DEFAULTS;
  }
}

/** Return settings as the API takes them. */
export function sampling() {
  const {temperature, top_p, max_tokens, seed} = settings();
  return {temperature, top_p, max_tokens, ...(seed === "" ? {} : {seed})};
}

function dialog(id, title, ...content) {
  const element = $(id);
  element.replaceChildren(
    h("h2", {id: `${id}-head`}, title), ...content,
    h("div", {class: "row end"}, button(say("done"), () => element.close(), {class: "primary"})));
  element.onclick = (event) => { if (event.target === element && isBeside(element, event)) element.close(); };
  element.showModal();
  return element;
}

/** Return whether a click was on what is around an element: its own edge is the element too. */
function isBeside(element, {clientX, clientY}) {
  const {left, right, top, bottom} = element.getBoundingClientRect();
  return clientX < left || clientX > right || clientY < top || clientY > bottom;
}

/** Open the settings. The system prompt belongs to the conversation, all else to the browser. */
export function openSettings(system, limits, onSystem) {
  const chosen = settings();
  const numbers = [
    ["temperature", {min: 0, max: 2, step: 0.05}], ["top_p", {min: 0.05, max: 1, step: 0.05}],
    ["max_tokens", {min: 1, max: limits.max_tokens, step: 1}],
    ["seed", {min: 0, max: limits.max_seed, step: 1}],
  ].map(([name, bounds]) => number(name, bounds, chosen));
  const prompt = h("textarea", {id: "system", rows: "4", dir: "auto", onchange: () => onSystem(prompt.value)});
  prompt.value = system;
  dialog("settings", say("settings"),
    h("label", {for: "system"}, say("system")), prompt, ...numbers.flat(),
    h("label", {for: "theme"}, say("theme")), themeChoice(),
    button(say("defaults"), () => {
      remember("localStorage", KEY, JSON.stringify(DEFAULTS));
      for (const [name, value] of Object.entries(DEFAULTS)) $(name).value = value;
    }));
}

function number(name, bounds, chosen) {
  const field = h("input", {id: name, type: "number", inputmode: "decimal", ...bounds, onchange: () => {
    const value = field.value === "" ? DEFAULTS[name] : Number(field.value);
    const {rangeUnderflow, rangeOverflow, badInput, stepMismatch} = field.validity;
    // The steps of a fraction are for its arrows only; what has steps of one is a whole number.
    if (rangeUnderflow || rangeOverflow || badInput || (stepMismatch && bounds.step === 1)) {
      field.reportValidity();
      return;
    }
    remember("localStorage", KEY, JSON.stringify({...settings(), [name]: value}));
    field.value = value;
  }});
  field.value = chosen[name];
  return [h("label", {for: name}, say(name)), field];
}

function themeChoice() {
  const now = document.documentElement.dataset.theme;
  return h("select", {id: "theme", onchange: (event) => {
    document.documentElement.dataset.theme = event.target.value;
    remember("localStorage", "theme", event.target.value);
  }}, ...Object.entries({system: "themeSystem", light: "themeLight", dark: "themeDark"}).map(
    ([name, words]) => h("option", {value: name, selected: name === now}, say(words))));
}

/** Open what a program needs to know. */
export function openApi(model) {
  const base = new URL("v1", location.href.replace(/[#?].*$/, "")).href;
  const body = JSON.stringify({model, messages: [{role: "user", content: "Hello"}]});
  const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const curl = `curl ${base}/chat/completions \\\n  -H "Authorization: Bearer $LLAVA_KEY" \\\n`
    + `  -H "Content-Type: application/json" \\\n  -d ${shell(body)}`;
  dialog("api", say("apiHead"), h("p", {}, say("apiHow")),
    ...line("baseUrl", base), h("h3", {}, say("key")), h("p", {}, say("keyHow")), ...line("curl", curl));
}

function line(name, text) {
  const copy = button(say("copy"), async () => {
    copy.textContent = say(await copyText(text) ? "copied" : "copyFailed");
  });
  return [h("h3", {}, say(name)),
    h("div", {class: "code"}, h("div", {class: "code-head"}, h("span", {}), copy),
      h("pre", {tabindex: "0"}, h("code", {}, text)))];
}
