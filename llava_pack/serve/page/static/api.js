// Talks to the server: by the routes that every client has, and one that tells how it is.

/** What a request failed with: the API's code, or "network" where no answer came. */
export class ApiError extends Error {
  constructor(message, {code = null, status = 0} = {}) {
    super(message);
    this.code = code;
    this.status = status;
  }
}

/** Return the models and the limits as they are now. */
export async function askFacts() {
  const answer = await request("page/facts", {signal: AbortSignal.timeout(10_000)});
  return answer.json();
}

/** Return how many tokens messages become for a model; null where that cannot be told now. */
export async function countTokens(model, gathered) {
  try {
    const messages = await gathered();
    return (await (await request("tokenize", posted({model, messages}))).json()).count;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    return null;  // asking will tell what is wrong
  }
}

/**
 * Ask, and yield what comes: {text}, {reason}, {usage}, {warnings}. An answer that ends without
 * the stream's own last word was cut off on its way, which is an error as well.
 */
export async function* askStream(body, signal) {
  const answer = await request("v1/chat/completions", {...posted(body), signal});
  for await (const data of events(answer.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(chunk.error.message, {code: chunk.error.code, status: 500});
    const choice = chunk.choices[0];
    if (choice?.delta?.content) yield {text: choice.delta.content};
    if (choice?.finish_reason) yield {reason: choice.finish_reason};
    if (chunk.usage) yield {usage: chunk.usage};
    if (chunk.warnings) yield {warnings: chunk.warnings};
  }
  throw new ApiError("the stream broke off", {code: "network"});
}

function posted(body) {
  const headers = {"Content-Type": "application/json"};
  return {method: "POST", headers, body: JSON.stringify(body)};
}

async function request(path, options) {
  let answer;
  try {
    answer = await fetch(path, {credentials: "same-origin", redirect: "error", ...options});
  } catch (error) {
    if (options.signal?.aborted && error.name === "AbortError") throw error;
    throw new ApiError(String(error.message), {code: "network"});
  }
  if (answer.ok) return answer;
  const {error} = await answer.json().catch(() => ({}));
  throw new ApiError(error?.message ?? answer.statusText,
    {code: error?.code ?? null, status: answer.status});
}

/** Yield the data of server-sent events. Source: WHATWG HTML, "Event stream interpretation". */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const {value, done} = await reader.read().catch((error) => {
        if (error.name === "AbortError") throw error;
        throw new ApiError(String(error.message), {code: "network"});
      });
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) if (part.startsWith("data: ")) yield part.slice(6);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
