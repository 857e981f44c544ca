// Where a question is written: text and pictures, however they come in.

import {pictureTrouble} from "./conversation.js";
import {$, button, isComposing, newId} from "./dom.js";
import {forget, recalled, remember} from "./kept.js";
import {PictureError, taken, thumbnail} from "./pictures.js";
import {notice} from "./server.js";
import {say} from "./words.js";

const KEEP_AFTER_MS = 300;

/**
 * The box and the pictures beside it: the draft of a conversation.
 *
 * `page` gives `limits()`, `before()` (the pictures that were sent already), `keep()` and
 * `send(draft)`.
 */
export class Composer {
  constructor(store, page) {
    this.store = store;
    this.page = page;
    this.pictures = [];
    this.timer = null;
    this.#wire();
  }

  /** Show another conversation's draft. */
  async show(conversation) {
    this.forget();
    this.conversation = conversation.id;
    const name = `draft ${conversation.id}`;
    const hasty = recalled("sessionStorage", name);
    $("box").value = hasty ?? conversation.draft.text;
    this.pictures = [...conversation.draft.pictures];
    this.#fit();
    await this.#drawPictures();
    if (hasty === null) return;
    await this.keep();
    forget("sessionStorage", name);
  }

  get draft() {
    return {text: $("box").value, pictures: [...this.pictures]};
  }

  /** Keep the draft now. */
  keep() {
    clearTimeout(this.timer);
    this.timer = null;
    return this.page.keep();
  }

  /** Keep nothing more of the draft that is shown: something else takes its place. */
  forget() {
    clearTimeout(this.timer);
    this.timer = null;
  }

  /** Take files in: each is looked at, made smaller where it has to be, and kept. */
  async add(files) {
    notice("error", null);
    const conversation = this.conversation;
    const limits = await this.page.limits();
    for (const file of files) {
      try {
        const {blob, ...picture} = await taken(file, limits);
        const record = {...picture, id: newId(), size: blob.size};
        if (conversation !== this.conversation) return;
        const trouble = pictureTrouble([...this.page.before(), ...this.pictures, record], limits);
        if (trouble) throw new PictureError(trouble);
        const isKept = await this.store.put("pictures", {id: record.id, conversation, blob});
        if (!isKept) throw new PictureError(say("pictureNotKept", {name: file.name}));
        if (conversation !== this.conversation) return;
        this.pictures.push(record);
        await this.keep();
      } catch (error) {
        if (!(error instanceof PictureError)) throw error;
        notice("error", error.message, {kind: "warn"});
      }
      await this.#drawPictures();
    }
  }

  async #drawPictures() {
    const drawn = [];
    for (const picture of this.pictures) {
      const remove = button(say("removePicture", {name: picture.name}), () => this.#remove(picture),
        {sign: "✕", class: "remove"});
      drawn.push(thumbnail(picture, await this.store.picture(picture.id), remove));
    }
    $("thumbnails").replaceChildren(...drawn);
  }

  async #remove(picture) {
    this.pictures = this.pictures.filter((each) => each !== picture);
    await this.keep();
    await this.#drawPictures();
    $("box").focus();
  }

  /** Let the box be as high as its text, up to what the style allows. */
  #fit() {
    const box = $("box");
    box.style.height = "auto";
    box.style.height = `${box.scrollHeight + 2}px`;
  }

  #wire() {
    const box = $("box");
    box.addEventListener("input", () => {
      this.#fit();
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.keep(), KEEP_AFTER_MS);
    });
    box.addEventListener("keydown", (event) => {
      // On a phone, Enter of the keyboard on the screen starts a new line, as everywhere there.
      const sends = event.key === "Enter" && !event.shiftKey && !isComposing(event);
      if (!sends || matchMedia("(pointer: coarse)").matches) return;
      event.preventDefault();
      $("composer").requestSubmit();
    });
    $("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      const {text, pictures} = this.draft;
      if (text.trim() || pictures.length) this.page.send({text: text.trim(), pictures});
    });
    for (const [opener, field] of [["add", "files"], ["camera", "shot"]]) {
      $(opener).addEventListener("click", () => $(field).click());
      $(field).addEventListener("change", async (event) => {
        const files = [...event.target.files];
        event.target.value = "";
        await this.add(files);
        box.focus();
      });
    }
    box.addEventListener("paste", (event) => {
      const files = [...event.clipboardData.files];
      // An office program puts text on the clipboard together with a picture of it.
      if (!files.length || event.clipboardData.types.includes("text/plain")) return;
      event.preventDefault();
      this.add(files);
    });
    this.#wireDrop();
    window.addEventListener("pagehide", () => {
      // Nothing that takes a moment is done any more; the rest of the draft is kept already.
      if (this.timer !== null) remember("sessionStorage", `draft ${this.conversation}`, box.value);
    });
  }

  #wireDrop() {
    const isFiles = (event) => event.dataTransfer?.types.includes("Files");
    const shown = (visible) => { $("drop").hidden = !visible; };
    window.addEventListener("dragover", (event) => {
      if (!isFiles(event)) return;
      event.preventDefault();
      shown(true);
    });
    window.addEventListener("dragleave", (event) => { if (event.relatedTarget === null) shown(false); });
    window.addEventListener("drop", (event) => {
      if (!isFiles(event)) return;
      event.preventDefault();
      shown(false);
      this.add([...event.dataTransfer.files]);
    });
  }
}
