// The conversation. It lives in the page and its tab, so a server that starts anew takes nothing of it away.

import { Away, call, events } from "./api.js";
import { byId, make, session } from "./dom.js";
import { digits, seconds } from "./format.js";
import { render } from "./text.js";

const FIELDS = ["system", "temperature", "max-tokens"];

export class Chat {
  #messages = [];
  #running = null;
  #connection;
  #model;

  /** model: returns the name of the model to ask. */
  constructor(connection, model) {
    this.#connection = connection;
    this.#model = model;
    this.#restore();
    byId("composer").addEventListener("submit", (event) => { event.preventDefault(); this.#send(); });
    byId("message").addEventListener("keydown", (event) => this.#key(event));
    byId("stop").addEventListener("click", () => this.stop());
    byId("new").addEventListener("click", () => this.#clear());
    document.addEventListener("keydown", (event) => { if (event.key === "Escape") this.stop(); });
    for (const id of FIELDS) byId(id).addEventListener("change", () => session.set(id, byId(id).value));
    connection.addEventListener("change", () => this.#showButtons());
  }

  /** Stop the answer that is being written, if there is one. */
  stop() { this.#running?.abort(); }

  #key(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    this.#send();
  }

  #send() {
    const text = byId("message").value.trim();
    if (!text || this.#running) return;
    if (!this.#canSend()) {
      byId("notice").textContent = "The server is not there now. Your message is kept; send it when it is back.";
      return;
    }
    byId("message").value = "";
    this.#append({ role: "user", content: text });
    this.#answer();
  }

  #retry() {
    if (this.#running || !this.#canSend()) return;
    if (this.#messages.at(-1)?.role === "assistant") this.#messages.pop().view.root.remove();
    this.#answer();
  }

  async #answer() {
    const asked = this.#body();
    const message = this.#append({ role: "assistant", content: "" });
    const running = (this.#running = new AbortController());
    message.view.root.setAttribute("aria-busy", "true");
    this.#showButtons();
    try {
      await this.#stream(asked, message, running.signal);
    } catch (error) {
      if (running.signal.aborted) message.facts = "stopped";
      else message.problem = error instanceof Away ? `${error.message} This page tries to reach it again.` : error.message;
      if (error instanceof Away) this.#connection.now();
    }
    this.#running = null;
    message.view.root.removeAttribute("aria-busy");
    this.#show(message);
    this.#keep();
    this.#showButtons();
  }

  #body() {
    const system = byId("system").value.trim();
    const said = this.#messages.filter((one) => one.content).map(({ role, content }) => ({ role, content }));
    const body = {
      model: this.#model(), stream: true, stream_options: { include_usage: true },
      messages: [...(system ? [{ role: "system", content: system }] : []), ...said],
    };
    const [temperature, most] = ["temperature", "max-tokens"].map((id) => byId(id).valueAsNumber);
    if (Number.isFinite(temperature)) body.temperature = temperature;
    if (Number.isFinite(most)) body.max_tokens = most;
    return body;
  }

  async #stream(body, message, signal) {
    const began = performance.now();
    let first = null;
    let usage = null;
    let reason = null;
    for await (const event of events(await call("v1/chat/completions", { method: "POST", body, signal }))) {
      usage = event.usage ?? usage;
      const choice = event.choices[0];
      reason = choice?.finish_reason ?? reason;
      if (!choice?.delta.content) continue;
      first ??= performance.now();
      message.content += choice.delta.content;
      this.#showSoon(message);
    }
    if (usage !== null && first !== null) message.facts = factsOf(usage, first - began, performance.now() - first, reason);
  }

  #append({ role, content, facts, problem }) {
    const message = { role, content, facts, problem, view: null, due: false };
    message.view = this.#makeView(message);
    byId("log").querySelector(".hint")?.remove();
    byId("log").append(message.view.root);
    this.#messages.push(message);
    this.#show(message);
    this.#keep();
    byId("log").scrollTop = byId("log").scrollHeight;
    return message;
  }

  #makeView(message) {
    const who = make("p", { class: "who" }, message.role === "user" ? "You" : "Assistant", this.#copyButton(() => message.content));
    if (message.role === "assistant") who.append(make("button", { type: "button", onclick: () => this.#retryFrom(message) }, "Retry"));
    const [text, facts, problem] = ["text", "facts", "problem"].map((name) => make(name === "text" ? "div" : "p", { class: name }));
    const root = make("div", { class: "message", "data-role": message.role }, who, text, facts, problem);
    return { root, text, facts, problem };
  }

  #retryFrom(message) {
    const at = this.#messages.indexOf(message);
    if (this.#running || !this.#canSend()) return;
    for (const one of this.#messages.splice(at + 1)) one.view.root.remove();
    this.#retry();
  }

  #copyButton(text) {
    return make("button", { type: "button", onclick: async (event) => {
      const button = event.currentTarget;
      button.textContent = (await copy(text())) ? "Copied" : "Not copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    } }, "Copy");
  }

  /** Show a message with the next picture: tokens may come faster than those. */
  #showSoon(message) {
    if (message.due) return;
    message.due = true;
    requestAnimationFrame(() => { message.due = false; this.#show(message); });
  }

  #show({ role, content, facts, problem, view }) {
    const log = byId("log");
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
    view.text.replaceChildren(...(role === "user" ? [content] : render(content, (code) => this.#copyButton(() => code))));
    view.facts.textContent = facts ?? "";
    view.problem.textContent = problem ?? "";
    if (atEnd) log.scrollTop = log.scrollHeight;
  }

  #canSend() { return this.#connection.state === "ready" || this.#connection.state === "loading"; }

  #showButtons() {
    byId("stop").hidden = this.#running === null;
    byId("send").hidden = this.#running !== null;
    byId("send").disabled = !this.#canSend();
    if (this.#canSend()) byId("notice").textContent = "";
  }

  #clear() {
    this.stop();
    this.#messages = [];
    byId("log").replaceChildren();
    this.#keep();
    byId("message").focus();
  }

  #keep() {
    const kept = this.#messages.map(({ role, content, facts, problem }) => ({ role, content, facts, problem }));
    session.set("chat", JSON.stringify(kept));
  }

  #restore() {
    for (const id of FIELDS) byId(id).value = session.get(id) ?? byId(id).value;
    for (const message of JSON.parse(session.get("chat") ?? "[]")) this.#append(message);
  }
}

function factsOf(usage, firstMs, restMs, reason) {
  const count = usage.completion_tokens;
  const rate = count > 1 ? ` · ${digits(((count - 1) / restMs) * 1e3)} tok/s` : "";
  const cached = usage.prompt_tokens_details?.cached_tokens;
  const prompt = `prompt ${usage.prompt_tokens}${cached ? `, ${cached} cached` : ""}`;
  return `${count} tokens · first after ${seconds(firstMs / 1e3)}${rate} · ${prompt}${reason === "length" ? " · cut at the limit" : ""}`;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}
