// The page: its words, its buttons, and its beginning.

import {titleOf} from "./conversation.js";
import {$, button, download, isComposing} from "./dom.js";
import {EXAMPLES, drawExample, exampleFile} from "./examples.js";
import {openApi, openSettings} from "./panels.js";
import {notice} from "./server.js";
import {openStore} from "./store.js";
import {Talk} from "./talk.js";
import {asJson, asMarkdown, fileName, imported} from "./transfer.js";
import {LANGUAGE, say} from "./words.js";

/** Let what is on the page do what it says. */
function wire(talk) {
  const clicks = {
    new: () => talk.open(null).then(() => $("box").focus()),
    stop: () => talk.turns.stop(talk.conversation.id),
    remove: () => talk.remove(talk.conversation.id),
    import: () => $("import-file").click(),
    "export-markdown": () => download(fileName(talk.conversation, "md"), "text/markdown",
      asMarkdown(talk.conversation, talk.messages)),
    "export-json": async () => download(fileName(talk.conversation, "json"), "application/json",
      await asJson(talk.conversation, talk.messages, talk.store)),
    "open-api": () => openApi(talk.server.model(talk.conversation.model)?.name ?? "MODEL"),
    "open-settings": async () => openSettings(talk.conversation.system, await talk.server.limits(),
      (system) => talk.change({system})),
  };
  for (const [id, act] of Object.entries(clicks)) {
    $(id).addEventListener("click", () => {
      $("menu").open = false;
      act();
    });
  }
  $("title").addEventListener("change", async (event) => {
    const title = event.target.value.trim();
    await talk.change({title});
    event.target.value = titleOf(talk.conversation);
    await talk.draw();
  });
  $("model").addEventListener("change", async (event) => {
    await talk.change({model: event.target.value});
    talk.drawServer();
  });
  $("import-file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    if (file) bringIn(talk, file);
    event.target.value = "";
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || isComposing(event)) return;
    if ($("menu").open) $("menu").open = false;
    else if (event.target === $("box")) talk.turns.stop(talk.conversation.id);
  });
  for (const name of EXAMPLES) $("examples").append(example(talk, name));
}

/** Keep a conversation that was exported, and open it. */
async function bringIn(talk, file) {
  try {
    const conversation = await imported(await file.text(), talk.store);
    await talk.open(conversation.id);
    notice("undo", say("imported", {title: titleOf(conversation)}));
  } catch (error) {
    if (![TypeError, SyntaxError, DOMException].some((kind) => error instanceof kind)) throw error;
    notice("error", say("notImported"), {kind: "warn"});
  }
}

function example(talk, name) {
  const shown = button(say(name), async () => {
    $("box").value = say(name);
    await talk.composer.add([await exampleFile(name)]);
    $("box").focus();
  });
  const drawing = drawExample(name);
  drawing.setAttribute("aria-hidden", "true");
  shown.prepend(drawing);
  return shown;
}

function fillWords() {
  document.documentElement.lang = LANGUAGE === "zh" ? navigator.language : LANGUAGE;
  for (const each of document.querySelectorAll("[data-say]")) each.textContent = say(each.dataset.say);
  for (const [name, attribute] of [["label", "aria-label"], ["placeholder", "placeholder"], ["title", "title"]]) {
    for (const each of document.querySelectorAll(`[data-${name}]`)) {
      each.setAttribute(attribute, say(each.dataset[name]));
    }
  }
}

fillWords();
await window.loggedIn;
const talk = new Talk(await openStore());
wire(talk);
talk.store.onFailure = (error) => notice("storage",
  say(error?.name === "QuotaExceededError" ? "full" : "notStored"), {kind: "warn"});
if (!talk.store.persistent) notice("storage", say("notKept"), {kind: "warn"});
await talk.begin();
