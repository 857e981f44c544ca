// What a conversation is: its record, its messages, and how the API is asked with them.

import {ApiError} from "./api.js";
import {newId} from "./dom.js";
import {dataUrl} from "./pictures.js";
import {say} from "./words.js";

const TITLE_CHARS = 48;
/** How long a running answer of another tab may give no sign before it counts as broken off. */
const SILENT_MS = 8000;

/** Return a conversation in which nothing was said yet. */
export function newConversation(id = newId()) {
  return {id, title: "", updated: Date.now(), model: "", system: "", draft: {text: "", pictures: []}};
}

/** Return a conversation's title for people. */
export const titleOf = (conversation) => conversation.title || say("untitled");

/** Return the first words of a question: what a conversation is called until somebody names it. */
export function titleFrom(text, pictures) {
  const line = text.trim().split("\n", 1)[0].replace(/^[#>*\-\s`]+/, "") || pictures[0]?.name || "";
  const chars = [...line];
  return chars.length <= TITLE_CHARS ? line
    : `${chars.slice(0, TITLE_CHARS).join("").replace(/\s+\S*$/, "")}…`;
}

/** Return a question's record, after all that there is. */
export function newQuestion(conversation, messages, text, pictures) {
  const order = Math.max(Date.now(), Math.floor(messages.at(-1)?.order ?? 0) + 1);
  return {id: newId(), conversation, order, role: "user", text, pictures};
}

/** Return the record of an answer that is still to come; it stays beside its question. */
export function newAnswer(question, model, owner) {
  return {
    id: newId(), conversation: question.conversation, order: Math.floor(question.order) + 0.5,
    role: "assistant", text: "", pictures: [], model, state: "running", owner, seen: Date.now(),
  };
}

/** Return whether an answer that was running comes no more: its tab was reloaded, or is gone. */
export function isOrphan(message, tab, isRunning) {
  if (message.state !== "running" || isRunning(message.id)) return false;
  return message.owner === tab || Date.now() - message.seen > SILENT_MS;
}

/** Return whether an answer can be gone on with. */
export const isUnfinished = (message) =>
  message.role === "assistant" && ["cut", "stopped", "broken"].includes(message.state);

/** Return all pictures of messages. */
export const picturesOf = (messages) => messages.flatMap((message) => message.pictures);

/** Return what is wrong with the pictures of a conversation together, or null. */
export function pictureTrouble(pictures, limits) {
  const sum = (values) => values.reduce((one, other) => one + other, 0);
  if (pictures.length > limits.count) return say("tooMany", {count: limits.count});
  const bytes = sum(pictures.map((each) => each.size)) * 4 / 3;
  const pixels = sum(pictures.map((each) => each.width * each.height));
  return bytes > limits.body_bytes * 0.97 || pixels > limits.total_pixels ? say("tooLarge") : null;
}

/** Return messages as the API takes them; the last one may be an answer that is to go on. */
export async function apiMessages(conversation, messages, store) {
  const asked = conversation.system.trim()
    ? [{role: "system", content: conversation.system}] : [];
  for (const {role, text, pictures} of messages) {
    if (role === "assistant" && text === "") continue;
    const parts = [];
    for (const picture of pictures) {
      const blob = await store.picture(picture.id);
      if (!blob) throw new ApiError(picture.name, {code: "picture_lost"});
      parts.push({type: "image_url", image_url: {url: await dataUrl(blob, picture.type)}});
    }
    asked.push({role, content: parts.length ? [...parts, ...(text ? [{type: "text", text}] : [])] : text});
  }
  return asked;
}
