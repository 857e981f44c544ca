// The open conversation, and everything that can be done with it.

import {Composer} from "./composer.js";
import {
  isOrphan, newAnswer, newConversation, newQuestion, picturesOf, pictureTrouble,
  titleFrom, titleOf,
} from "./conversation.js";
import {$, newId} from "./dom.js";
import {TAB, recalled, remember} from "./kept.js";
import {MessageList, endText, followEnd} from "./messages.js";
import {sampling} from "./panels.js";
import {Server, drawContext, drawModel, notice} from "./server.js";
import {drawList, wireSidebar} from "./sidebar.js";
import {Turns} from "./turn.js";
import {say, sayError} from "./words.js";

/** What the page is about: a conversation, the server, and the box. */
export class Talk {
  constructor(store) {
    this.store = store;
    this.conversation = newConversation();
    this.messages = [];
    this.turns = new Turns(store, (answer) => this.updated(answer));
    this.server = new Server((facts) => this.told(facts), () => this.login());
    this.list = new MessageList($("messages"), store, {
      edit: (message, text) => this.edit(message, text),
      again: (message) => this.again(message),
      goOn: (message) => this.goOn(message),
    });
    this.composer = new Composer(store, {
      limits: () => this.server.limits(),
      before: () => picturesOf(this.messages),
      keep: () => this.keepDraft(),
      send: (draft) => this.send(draft),
    });
    this.closeSide = wireSidebar();
    this.end = followEnd($("talk"), $("messages"));
    this.changed = new Set();
    store.onChange = (id) => this.changedElsewhere(id);
  }

  /** Open where this tab was left, or else where the browser was. */
  async begin() {
    remember("sessionStorage", "tab", TAB);
    const id = recalled("sessionStorage", "conversation") ?? recalled("localStorage", "conversation");
    await this.open(id);
    $("box").focus();
    await this.server.watch();
  }

  /** Open a conversation; one that is not there is a new one. */
  async open(id) {
    if (this.composer.timer !== null) await this.composer.keep();
    this.closeSide();
    notice("error", null);
    this.conversation = (id && await this.store.conversation(id)) || newConversation(id ?? undefined);
    remember("sessionStorage", "conversation", this.conversation.id);
    remember("localStorage", "conversation", this.conversation.id);
    await this.composer.show(this.conversation);
    this.end.follow = true;
    await this.load();
  }

  /** Read the open conversation's messages, and draw them. */
  async load() {
    const {id} = this.conversation;
    const messages = await this.store.messages(id);
    if (id !== this.conversation.id) return;
    const running = this.turns.of(id);
    this.messages = messages.map((each) => (each.id === running?.id ? running : each));
    if (running && !this.messages.includes(running)) this.messages.push(running);  // not kept yet
    for (const each of this.messages.filter((message) => this.isOrphan(message))) {
      await this.store.change("messages", each, {state: "broken", error: null});
    }
    await this.draw();
    this.count();
  }

  async draw() {
    const busy = this.turns.of(this.conversation.id) !== undefined;
    const isHeld = [$("send"), $("stop")].includes(document.activeElement);
    $("send").hidden = busy;
    $("stop").hidden = !busy;
    if (isHeld) $(busy ? "stop" : "send").focus();
    $("empty").hidden = this.messages.length > 0;
    if (document.activeElement !== $("title")) $("title").value = titleOf(this.conversation);
    document.title = this.conversation.title ? `${this.conversation.title} · llava-pack` : "llava-pack";
    await this.list.draw(this.messages, busy);
    this.drawServer();
    await this.drawSide();
  }

  async drawSide() {
    drawList(await this.store.conversations(), this.conversation.id, {
      open: (id) => this.open(id).then(() => $("box").focus()),
      remove: (id) => this.remove(id),
    });
  }

  drawServer() {
    const models = this.server.facts?.models ?? [];
    const chosen = this.server.model(this.conversation.model);
    drawModel(models, chosen);
    const used = this.messages.findLast((each) => each.usage)?.usage.total;
    drawContext(used ?? this.conversation.counted, chosen?.context_tokens);
  }

  async count() {
    if (await this.server.count(this.conversation, this.messages, this.store)) this.drawServer();
  }

  told(facts) {
    $("files").accept = ["image/*", ...Object.keys(facts.limits.formats)].join();
    this.drawServer();
    if (this.messages.some((each) => this.isOrphan(each))) this.load();
  }

  isOrphan(message) {
    return isOrphan(message, TAB, this.turns.isRunning);
  }

  changedElsewhere(id) {
    this.changed.add(id);
    this.reloading ??= setTimeout(() => this.catchUp(), 200);
  }

  /** Show what other tabs changed; an answer whose conversation they deleted has no place. */
  async catchUp() {
    const ids = [...this.changed];
    this.changed.clear();
    this.reloading = null;
    for (const id of ids) if (!await this.store.conversation(id)) await this.turns.stop(id);
    const {id} = this.conversation;
    if (!ids.includes(id)) return this.drawSide();
    const there = await this.store.conversation(id);
    if (!there && this.messages.length && !this.composer.draft.text) return this.open(null);
    if (there) Object.assign(this.conversation, {...there, draft: this.composer.draft});
    return this.load();
  }

  /** Change the open conversation's record, which is kept from its first change on. */
  async change(fields, conversation = this.conversation) {
    Object.assign(conversation, fields);
    if (await this.store.conversation(conversation.id)) {
      await this.store.change("conversations", conversation, fields);
    } else {
      await this.store.put("conversations", {...conversation});
    }
  }

  async keepDraft() {
    const fresh = (await this.store.conversation(this.conversation.id)) === undefined;
    const {draft} = this.composer;  // as it is now, not when the keeping began
    if (fresh && !draft.text && !draft.pictures.length) return;
    await this.change({draft});
    if (fresh) await this.drawSide();
  }

  async send(draft) {
    const {conversation, messages} = this;
    if (this.turns.of(conversation.id)) return null;
    const trouble = this.server.model(conversation.model)
      ? pictureTrouble([...picturesOf(messages), ...draft.pictures], await this.server.limits())
      : say("noModel");
    if (trouble) return notice("error", trouble, {kind: "warn"});
    notice("replaced", null);
    const question = newQuestion(conversation.id, messages, draft.text, draft.pictures);
    const title = conversation.title || titleFrom(draft.text, draft.pictures);
    const fields = {title, updated: Date.now(), draft: {text: "", pictures: []}};
    this.end.follow = true;
    await this.composer.show({...conversation, ...fields});
    await this.change(fields);
    await this.store.put("messages", question);
    const error = await this.answer(conversation, [...messages, question]);
    return error && this.giveBack(conversation, question, error);
  }

  /** Let the model answer the last of some messages; return the error where nothing came. */
  async answer(conversation, before, id = newId()) {
    const model = this.server.model(conversation.model);
    const answer = {...newAnswer(before.at(-1), model.name, TAB), id};
    if (conversation === this.conversation) this.messages = [...before, answer];
    const error = await this.turns.run(conversation, before, answer, {model: model.name, ...sampling()});
    if (error) {
      await this.store.takeMessages([answer]);
      if (conversation === this.conversation) await this.load();
    }
    return error;
  }

  /** Put a question that could not be asked back into the box, with the reason. */
  async giveBack(conversation, question, error) {
    await this.store.takeMessages([question]);
    const open = conversation.id === this.conversation.id;
    const since = open ? this.composer.draft : conversation.draft;
    const draft = {
      text: [question.text, since.text].filter(Boolean).join("\n"),
      pictures: [...question.pictures, ...since.pictures],
    };
    if (open) await this.composer.show({...conversation, draft});
    await this.change({draft}, conversation);
    if (open) await this.load();
    this.failed(error);
  }

  failed(error) {
    return error.status === 401 ? this.login() : notice("error", sayError(error), {kind: "warn"});
  }

  /** Go to the login; it comes back here, and what was written is still there. */
  async login() {
    await this.composer.keep();
    location.assign("login");
  }

  async again(message) {
    const at = this.messages.indexOf(message);
    if (this.messages[at - 1]?.role === "user") await this.replace(at, [], this.messages.slice(0, at));
  }

  async edit(message, text) {
    const at = this.messages.indexOf(message);
    const question = {...message, id: newId(), text};
    await this.replace(at, [question], [...this.messages.slice(0, at), question]);
  }

  /** Put other messages in place of those from one on, and have them answered. */
  async replace(at, instead, before) {
    const {conversation} = this;
    const old = this.messages.slice(at);
    if (at < 0 || this.turns.of(conversation.id) || !this.server.model(conversation.model)) return;
    const putBack = await this.store.takeMessages(old);
    const answer = newId();
    const added = [answer, ...instead.map((each) => each.id)];
    for (const each of instead) await this.store.put("messages", each);
    const undo = async () => {
      await this.turns.stop(conversation.id);
      const now = await this.store.messages(conversation.id);
      await this.store.takeMessages(now.filter((each) => added.includes(each.id)));
      await putBack();
      if (conversation.id === this.conversation.id) await this.load();
    };
    notice("replaced", say("replaced"), {actions: [[say("undo"), undo]]});
    const error = await this.answer(conversation, before, answer);
    if (!error) return;
    notice("replaced", null);
    await undo();
    this.failed(error);
  }

  async goOn(message) {
    const {conversation} = this;
    if (message.text === "") return this.again(message);
    const before = this.messages.slice(0, this.messages.indexOf(message));
    const model = this.server.model(conversation.model);
    if (!model || this.turns.of(conversation.id)) return null;
    notice("replaced", null);
    const error = await this.turns.run(conversation, before, message, {model: model.name, ...sampling()});
    return error && this.failed(error);
  }

  /** Show what came of an answer. */
  updated(answer) {
    if (answer.conversation !== this.conversation.id) return;
    const drawn = $("messages").querySelector(`[data-id="${answer.id}"]`);
    const running = this.turns.isRunning(answer.id);
    if (running && drawn && !$("stop").hidden) {
      this.list.grow(answer);
    } else {
      if (running) notice("error", null);
      $("announce").textContent = running ? say("answering") : endText(answer);
      this.draw();
    }
  }

  async remove(id) {
    await this.turns.stop(id);
    const conversation = await this.store.conversation(id);
    const putBack = await this.store.takeConversation(id);
    if (id === this.conversation.id) {
      this.composer.forget();
      await this.open((await this.store.conversations())[0]?.id);
    } else {
      await this.drawSide();
    }
    if (!conversation) return;
    notice("undo", say("removed", {title: titleOf(conversation)}), {actions: [[say("undo"), async () => {
      await putBack();
      await this.open(id);
    }]]});
  }
}
