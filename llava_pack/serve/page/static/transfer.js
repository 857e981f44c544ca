// Conversations as files: Markdown for people, JSON to bring them back in.

import {newId} from "./dom.js";
import {newConversation, picturesOf, titleOf} from "./conversation.js";
import {dataUrl} from "./pictures.js";
import {say} from "./words.js";

const KIND = "llava-pack conversation";
const FIELDS = ["role", "text", "model", "state", "usage"];
const STATES = ["whole", "cut", "stopped", "broken"];

/** Return a conversation as Markdown; of a picture its name is told. */
export function asMarkdown(conversation, messages) {
  const parts = [`# ${titleOf(conversation)}`];
  if (conversation.system) parts.push(`> ${conversation.system.replaceAll("\n", "\n> ")}`);
  for (const {role, text, pictures, model, state} of messages) {
    parts.push(role === "user" ? `## ${say("you")}` : `## ${model || say("model")}`);
    for (const picture of pictures) parts.push(`*${say("picture", {name: picture.name})}*`);
    if (text) parts.push(text);
    if (["cut", "stopped", "broken"].includes(state)) parts.push(`*${say(state)}*`);
  }
  return `${parts.join("\n\n")}\n`;
}

/** Return a conversation as JSON, its pictures within it. */
export async function asJson(conversation, messages, store) {
  const pictures = {};
  for (const {id, type} of picturesOf(messages)) {
    const blob = await store.picture(id);
    if (blob) pictures[id] = await dataUrl(blob, type);
  }
  const {title, system} = conversation;
  const told = messages.map((message) => ({
    ...Object.fromEntries(FIELDS.filter((name) => name in message).map((name) => [name, message[name]])),
    pictures: message.pictures,
  }));
  return JSON.stringify({kind: KIND, version: 1, title, system, messages: told, pictures}, null, 1);
}

/** Return a file's name for a conversation. */
export function fileName(conversation, suffix) {
  const plain = titleOf(conversation).replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "");
  return `${plain.slice(0, 60) || "conversation"}.${suffix}`;
}

/** Keep a conversation that was exported, as a new one; return it. Anything else is an error. */
export async function imported(text, store) {
  const given = JSON.parse(text);
  if (given?.kind !== KIND || !Array.isArray(given.messages)) throw new TypeError("not a conversation");
  const conversation = {...newConversation(), title: String(given.title ?? ""),
    system: String(given.system ?? "")};
  const records = given.messages.map((message, index) => message_(message, index, conversation.id));
  const blobs = [];
  for (const picture of picturesOf(records)) {
    const url = String(given.pictures?.[picture.from] ?? "");
    const [, type, data] = /^data:(image\/[a-z0-9.+-]+);base64,([A-Za-z0-9+/=]*)$/.exec(url) ?? [];
    if (!type) throw new TypeError("a picture is missing");
    const bytes = Uint8Array.from(atob(data), (char) => char.charCodeAt(0));
    const blob = new Blob([bytes], {type});
    Object.assign(picture, {type, size: blob.size});
    delete picture.from;
    blobs.push({id: picture.id, conversation: conversation.id, blob});
  }
  await store.put("conversations", conversation);
  for (const blob of blobs) await store.put("pictures", blob);
  for (const record of records) await store.put("messages", record);
  return conversation;
}

/** Return how an answer ended; one that was running when it was exported has no end. */
function stateOf(given) {
  if (given.state === "running") return "broken";
  return STATES.includes(given.state) ? given.state : "whole";
}

/** Return a message's record, every field of the kind that it must be. */
function message_(given, index, conversation) {
  if (!["user", "assistant"].includes(given?.role)) throw new TypeError("not a message");
  const pictures = (given.pictures ?? []).map((picture) => ({
    id: newId(), from: String(picture.id), name: String(picture.name), note: "",
    width: Number(picture.width) || 0, height: Number(picture.height) || 0,
  }));
  return {
    id: newId(), conversation, order: index + (given.role === "user" ? 0 : 0.5), role: given.role,
    text: String(given.text ?? ""), pictures,
    ...(given.role === "assistant" && {
      model: String(given.model ?? ""), state: stateOf(given),
    }),
  };
}
