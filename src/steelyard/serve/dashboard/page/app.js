// The page: what is asked goes through chat.js, what is seen comes from connection.js.

import { drawBlocks } from "./blocks.js";
import { drawFigures, drawLatency, drawSteps, drawThroughput } from "./charts.js";
import { Chat } from "./chat.js";
import { Connection } from "./connection.js";
import { byId, make, session } from "./dom.js";
import { History } from "./history.js";
import { drawMachine } from "./machine.js";
import { drawTimeline } from "./timeline.js";

const WORDS = {
  connecting: "Connecting", ready: "Ready", loading: "A model is being loaded",
  away: "The server is away; trying again", locked: "This server wants an API key",
};
const THEMES = ["system", "light", "dark"];

const connection = new Connection();
const history = new History();
let latest = null;

function draw() {
  if (latest === null) return;
  const engine = latest.engine;
  drawFigures(history, engine);
  drawTimeline(history, engine);
  drawThroughput(history);
  drawLatency(history);
  drawSteps(history, latest);
  drawBlocks(engine);
  drawMachine(history, latest);
}

function showModels({ models, model }) {
  const select = byId("model");
  const told = models.map((one) => `${one.name}${one.state === "ready" ? "" : ` (${one.state})`}`);
  const shown = [...select.options].map((one) => one.textContent);
  if (told.join("\n") !== shown.join("\n")) {
    select.replaceChildren(...models.map((one, at) => make("option", { value: one.name }, told[at])));
  }
  if (document.activeElement !== select) select.value = model;
}

function showState({ detail: { state, message } }) {
  const status = byId("status");
  const text = state === "locked" && session.get("key") ? message : WORDS[state];
  if (status.textContent !== text) status.textContent = text;
  status.dataset.state = state;
}

function showTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  byId("theme").textContent = `Theme: ${theme}`;
  draw();
}

function nextTheme() {
  const now = document.documentElement.dataset.theme ?? "system";
  const next = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length];
  try { localStorage.setItem("steelyard.theme", next); } catch { /* it holds until the page is left */ }
  showTheme(next);
}

function showView(view) {
  document.querySelector("main").dataset.view = view;
  for (const button of document.querySelectorAll(".views button")) {
    button.setAttribute("aria-pressed", String(button.dataset.view === view));
  }
  draw();
}

connection.addEventListener("change", showState);
connection.addEventListener("reset", () => history.clear());
connection.addEventListener("state", ({ detail }) => {
  latest = detail;
  history.add(detail);
  showModels(detail);
  draw();
});

byId("model").addEventListener("change", () => connection.look(byId("model").value));
byId("key").value = session.get("key") ?? "";
byId("key").addEventListener("input", () => {
  const key = byId("key").value.trim();
  if (key) session.set("key", key);
  else session.remove("key");
  connection.now();
});
byId("key-form").addEventListener("submit", (event) => { event.preventDefault(); connection.now(); });
byId("theme").addEventListener("click", nextTheme);
for (const button of document.querySelectorAll(".views button")) {
  button.addEventListener("click", () => showView(button.dataset.view));
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
new ResizeObserver(draw).observe(byId("engine"));

showTheme(document.documentElement.dataset.theme ?? "system");
new Chat(connection, () => byId("model").value);
connection.start();
