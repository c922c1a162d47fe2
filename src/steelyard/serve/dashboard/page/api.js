// Calls to the server. The API key comes from the tab's own storage and goes nowhere but into a header.

import { session } from "./dom.js";

/** The server answered, but not with what was asked for. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** The server cannot be reached, or went away in the middle of an answer. */
export class Away extends Error {}

/** Call an address and return its answer, which is one of success. */
export async function call(path, { method = "GET", body, signal } = {}) {
  const headers = {};
  const key = session.get("key");
  if (key) headers.authorization = `Bearer ${key}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: body && JSON.stringify(body), signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Away("The server cannot be reached.");
  }
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

async function refusal(answer) {
  try {
    return new Refused(answer.status, (await answer.json()).error.message);
  } catch {
    return new Refused(answer.status, `The server answered with status ${answer.status}.`);
  }
}

/** Yield the events of a stream as objects, until its [DONE]. */
export async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  while (true) {
    const { value, done } = await read(reader);
    if (done) throw new Away("The server went away before the answer was complete.");
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ")) continue;
      const data = line.slice(6);
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Refused(500, event.error.message);
      yield event;
    }
  }
}

async function read(reader) {
  try {
    return await reader.read();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Away("The server went away before the answer was complete.");
  }
}
