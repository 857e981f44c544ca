// One answer: asked for, kept as it comes, and marked where it ends too early.

import {ApiError, askStream} from "./api.js";
import {apiMessages} from "./conversation.js";

const KEEP_EVERY_MS = 1000;
const BURST_MS = 50;

/** Answers that are on their way, by conversation. */
export class Turns {
  constructor(store, onUpdate) {
    this.store = store;
    this.onUpdate = onUpdate;
    this.running = new Map();
  }

  /** Return the answer that is on its way in a conversation. */
  of(conversation) {
    return this.running.get(conversation)?.answer;
  }

  isRunning = (id) => [...this.running.values()].some(({answer}) => answer.id === id);

  /** End a conversation's answer, and wait until what came of it is kept. */
  async stop(conversation) {
    const turn = this.running.get(conversation);
    turn?.controller.abort();
    await turn?.over;
  }

  /**
   * Let the model say an answer, or go on with it, after the messages before it. What came stays,
   * whatever happens. Return the error where nothing came at all, so that nothing has to stay.
   */
  async run(conversation, before, answer, settings) {
    const controller = new AbortController();
    const {text: had, state, error: trouble} = answer;
    let end;
    const over = new Promise((resolve) => { end = resolve; });
    this.running.set(conversation.id, {controller, answer, over});
    Object.assign(answer, {state: "running", error: null, seen: Date.now()});
    await this.store.put("messages", answer);
    this.onUpdate(answer);
    // Also while nothing comes: other tabs take a silent answer for one whose tab is gone.
    const keeping = setInterval(() => this.#keep(answer), KEEP_EVERY_MS);
    try {
      const messages = await apiMessages(conversation, [...before, ...(had ? [answer] : [])], this.store);
      await this.#stream({...settings, messages}, answer, controller.signal);
    } catch (error) {
      if (answer.state !== "running") {
        // The model came to its end; only the stream's own last word is missing.
      } else if (error.name === "AbortError") {
        answer.state = "stopped";
      } else {
        if (!(error instanceof ApiError)) console.error(error);
        answer.state = "broken";
        answer.error = {code: error.code ?? null, status: error.status ?? 0, message: error.message};
        if (answer.text === had) {
          const failure = answer.error;
          if (had) Object.assign(answer, {state, error: trouble});
          return failure;
        }
      }
    } finally {
      clearInterval(keeping);
      this.running.delete(conversation.id);
      await this.store.change("messages", answer, {...answer});  // unless another tab removed it
      this.onUpdate(answer);
      end();
    }
    return null;
  }

  #keep(answer) {
    return this.store.change("messages", answer, {text: answer.text, state: answer.state, seen: Date.now()});
  }

  async #stream(body, answer, signal) {
    const began = performance.now();
    let first = null;
    const options = {stream: true, stream_options: {include_usage: true}};
    for await (const piece of askStream({...body, ...options}, signal)) {
      const now = performance.now();
      if (piece.text) {
        first ??= now;
        answer.text += piece.text;
      }
      if (piece.warnings) answer.warnings = piece.warnings;
      if (piece.reason) answer.state = piece.reason === "length" ? "cut" : "whole";
      if (piece.usage) Object.assign(answer, measured(piece.usage, began, first ?? now, now));
      this.onUpdate(answer);
    }
    if (answer.state === "running") answer.state = "whole";
  }
}

function measured(usage, began, first, now) {
  const tokens = usage.completion_tokens;
  const burst = now - first < BURST_MS;  // its pieces came together: nothing was seen of its speed
  const rate = burst ? tokens / (now - began) * 1000 : (tokens - 1) / (now - first) * 1000;
  return {usage: {total: usage.total_tokens}, speed: {tokens, rate, first: (first - began) / 1000}};
}
