"""The page in Chromium: chat, plots, keyboard, themes, a phone, and a server that goes away and comes back."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from live_server import KEYS, LiveServer, live_server, wait_until

from steelyard.engine.build import LLMOptions
from steelyard.serve.config import ListenConfig, ModelSpec, ServeConfig
from steelyard.serve.sources import DiskModels

playwright = pytest.importorskip("playwright.sync_api")
Browser, Page, expect = Any, Any, playwright.expect
pytestmark = pytest.mark.browser

ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 360, "height": 740}
PATIENCE_MS = 30_000
OpenPage = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=shutil.which("chromium"), args=list(ARGUMENTS))
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def served() -> Iterator[LiveServer]:
    """A server without keys, for this module's pages alone."""
    config = ServeConfig(
        models=(ModelSpec(source=None, names=("smol",)),),
        listen=ListenConfig(port=0, drain_timeout_s=1.0),
        engine=LLMOptions(max_model_len=2048, max_num_seqs=4),
    )
    with live_server(config, DiskModels(config.engine)) as server:
        yield server


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Open an address in a browser of its own; in the end nothing may stand in its console."""
    contexts, complaints = [], list[str]()

    def note(message: Any) -> None:
        # A server that is away is an error to the browser itself; the page cannot keep that from its console.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            complaints.append(message.text)

    def make(url: str, **options: Any) -> Page:
        context = browser.new_context(**{"viewport": DESKTOP} | options)
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("console", note)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(url)
        return page

    playwright.expect.set_options(timeout=PATIENCE_MS)
    yield make
    for context in contexts:
        context.close()
    assert not complaints


@pytest.fixture
def page(open_page: OpenPage, served: LiveServer) -> Page:
    page = open_page(served.url)
    expect(page.locator("#status")).to_have_text("Ready")
    return page


def ask(page: Page, text: str) -> None:
    page.locator("#message").fill(text)
    page.keyboard.press("Enter")


def ask_long(page: Page) -> None:
    """Ask for an answer that does not end by itself while a test looks at it."""

    def lengthen(route: Any) -> None:
        body = route.request.post_data_json | {"ignore_eos": True, "max_tokens": 1900}
        route.continue_(post_data=json.dumps(body))

    page.route("**/v1/chat/completions", lengthen)
    ask(page, "Count.")


def last(page: Page) -> Any:
    return page.locator(".message[data-role=assistant]").last


def told(page: Page) -> str:
    return last(page).locator(".text").inner_text()


def test_a_conversation(page: Page, served: LiveServer):
    page.locator("summary", has_text="Settings").click()
    page.locator("#system").fill("Answer in one word.")
    page.locator("#temperature").fill("0")
    page.locator("#max-tokens").fill("12")
    sent: list[dict[str, Any]] = []
    page.on("request", lambda one: sent.append(one.post_data_json) if "completions" in one.url else None)
    ask(page, "What colour is the sky?")
    expect(last(page).locator(".facts")).to_contain_text("tokens · first after")
    first = told(page)
    assert first
    ask(page, "And grass?")
    expect(page.locator(".message[data-role=assistant] .facts").nth(1)).to_contain_text("tokens")
    one, two = sent
    assert one["messages"][0] == {"role": "system", "content": "Answer in one word."}
    assert (one["temperature"], one["max_tokens"], one["model"], one["stream"]) == (0, 12, "smol", True)
    assert [message["role"] for message in two["messages"]] == ["system", "user", "assistant", "user"]
    assert two["messages"][2]["content"].strip() == first.strip()
    body = {"messages": one["messages"], "temperature": 0, "max_tokens": 12}
    answer = httpx.post(served.url + "/v1/chat/completions", json=body, timeout=60).json()
    assert answer["choices"][0]["message"]["content"].strip() == first.strip()


def test_text_is_shown_and_never_run(page: Page):
    kept = [
        {"role": "assistant", "content": 'See <img src=x onerror=alert(1)> **bold**\n```js\nlet a = "<b>";\n```\nend'}
    ]
    page.evaluate("kept => sessionStorage.setItem('steelyard.chat', JSON.stringify(kept))", kept)
    page.reload()
    message = last(page)
    expect(message.locator("pre code")).to_have_text('let a = "<b>";')
    expect(message.locator("strong")).to_have_text("bold")
    assert "<img src=x onerror=alert(1)>" in told(page)
    assert message.locator("img").count() == 0


def test_an_answer_is_stopped_with_the_key_and_with_the_button(page: Page, served: LiveServer):
    for stop in (lambda: page.keyboard.press("Escape"), lambda: page.locator("#stop").click()):
        ask_long(page)
        expect(last(page).locator(".text")).to_contain_text(re.compile("..."))
        stop()
        expect(last(page).locator(".facts")).to_have_text("stopped")
        expect(page.locator("#stop")).to_be_hidden()
        served.eventually(lambda: served.engine.num_running == 0)
        assert told(page)


def test_copy_retry_and_a_new_chat(page: Page):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("summary", has_text="Settings").click()
    page.locator("#max-tokens").fill("8")
    ask(page, "Say hello.")
    expect(last(page).locator(".facts")).to_contain_text("tokens")
    last(page).get_by_role("button", name="Copy").first.click()
    expect(last(page).get_by_role("button", name="Copied").first).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()").strip() == told(page).strip()
    last(page).get_by_role("button", name="Retry").click()
    expect(page.locator(".message")).to_have_count(2)
    expect(last(page).locator(".facts")).to_contain_text("tokens")
    page.locator("#new").click()
    expect(page.locator(".message")).to_have_count(0)
    page.reload()
    expect(page.locator(".message")).to_have_count(0)


def picture(page: Page, canvas: str) -> str:
    return page.evaluate("id => document.getElementById(id).toDataURL()", canvas)


def test_plots_move_under_load(page: Page):
    canvases = ("timeline", "throughput", "latency", "step-times", "blocks")
    before = {canvas: picture(page, canvas) for canvas in canvases}
    ask_long(page)
    expect(page.locator("#timeline")).to_have_attribute("aria-label", re.compile("1 running, 0 waiting"))
    expect(page.locator("#throughput")).to_have_attribute("aria-label", re.compile("[1-9].* of answers"))
    expect(page.locator("#step-times")).to_have_attribute("aria-label", re.compile(r"measured .*\sms,"))
    expect(page.locator("#figures")).to_contain_text(re.compile("Running1 of 4"))
    for canvas in canvases:
        wait_until(lambda canvas=canvas: picture(page, canvas) != before[canvas])
    page.keyboard.press("Escape")
    expect(page.locator("#timeline")).to_have_attribute("aria-label", re.compile("0 running"))


def test_an_unmeasured_machine_says_so(open_page: OpenPage, served: LiveServer, monkeypatch):
    monkeypatch.setattr("steelyard.serve.dashboard.hardware.KnownHardware._changed_at", lambda self: 0)
    monkeypatch.setattr("steelyard.serve.dashboard.hardware.profile_of", lambda machine, path: None)
    page = open_page(served.url)
    expect(page.locator("#unmeasured")).to_be_visible()
    expect(page.locator("#unmeasured")).to_have_text("No description of this machine yet: run steelyard probe.")
    expect(page.locator("#machine")).to_contain_text("Memory")


def test_everything_is_reached_with_the_keyboard_alone(page: Page):
    expect(page.locator("#message")).to_be_focused()
    page.keyboard.type("One line")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("and another")
    assert page.locator("#message").input_value() == "One line\nand another"
    page.locator("body").evaluate("() => document.activeElement.blur()")
    reached = set()
    for _ in range(25):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
    assert {"model", "key", "theme", "log", "message", "new", "send"} <= reached
    assert {"Skip to the message", "Settings"} <= reached
    unnamed = """[...document.querySelectorAll('input, select, textarea, button, canvas')].filter((one) =>
        !one.labels?.length && !one.getAttribute('aria-label') && !one.textContent.trim()).map((one) => one.id)"""
    assert page.evaluate(unnamed) == []


def ground(page: Page) -> str:
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_dark_and_light(open_page: OpenPage, served: LiveServer):
    page = open_page(served.url, color_scheme="dark")
    dark = ground(page)
    page.emulate_media(color_scheme="light")
    light = ground(page)
    assert dark != light
    page.locator("#theme").click()
    expect(page.locator("#theme")).to_have_text("Theme: light")
    page.locator("#theme").click()
    expect(page.locator("#theme")).to_have_text("Theme: dark")
    assert ground(page) == dark
    page.reload()
    assert ground(page) == dark
    page.locator("#theme").click()
    assert ground(page) == light


CONTRAST = """() => {
  const luminance = (text) => text.match(/[0-9.]+/g).slice(0, 3).map((one) => one / 255)
    .map((one) => (one <= 0.03928 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4))
    .reduce((sum, one, at) => sum + one * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = (one) => { for (; one; one = one.parentElement) {
    const colour = getComputedStyle(one).backgroundColor;
    if (!colour.endsWith(", 0)")) return colour;
  } };
  return [...document.querySelectorAll("h1, h2, p, dt, dd, th, td, label, button, li")]
    .filter((one) => one.checkVisibility() && !one.disabled)
    .filter((one) => [...one.childNodes].some((child) => child.nodeType === 3 && child.data.trim()))
    .map((one) => {
      const [a, b] = [getComputedStyle(one).color, behind(one)].map(luminance).sort((x, y) => y - x);
      return [one.textContent.trim().slice(0, 30), (a + 0.05) / (b + 0.05)];
    }).filter(([, ratio]) => ratio < 4.5);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(open_page: OpenPage, served: LiveServer, scheme: str):
    page = open_page(served.url, color_scheme=scheme)
    expect(page.locator("#status")).to_have_text("Ready")
    expect(page.locator("#machine li").first).to_be_visible()
    assert page.evaluate(CONTRAST) == []


def test_a_phone(open_page: OpenPage, served: LiveServer):
    page = open_page(served.url, viewport=PHONE, is_mobile=True, has_touch=True)
    expect(page.locator("#status")).to_have_text("Ready")
    overhang = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    for view, seen, hidden in (("Chat", "#message", "#figures"), ("Engine", "#figures", "#message")):
        page.get_by_role("button", name=view, exact=True).click()
        expect(page.locator(seen)).to_be_visible()
        expect(page.locator(hidden)).to_be_hidden()
        assert page.evaluate(overhang) == 0
        assert page.evaluate("document.querySelector('#engine').scrollWidth <= innerWidth")
    page.get_by_role("button", name="Chat", exact=True).click()
    page.locator("#message").fill("Hello")
    page.locator("#send").click()
    expect(last(page).locator(".text")).to_contain_text(re.compile("."))
    page.locator("#stop").click()
    assert page.evaluate(overhang) == 0


def test_a_key_opens_the_data_and_stays_in_the_tab(open_page: OpenPage, live: LiveServer):
    page = open_page(live.url)
    expect(page.locator("#status")).to_have_text("This server wants an API key")
    page.locator("#key").fill("a wrong one")
    expect(page.locator("#status")).to_contain_text("no valid API key")
    page.locator("#key").fill(KEYS["ann"])
    expect(page.locator("#status")).to_have_text("Ready")
    assert page.evaluate("JSON.stringify(localStorage)") == "{}"
    assert KEYS["ann"] in page.evaluate("JSON.stringify(sessionStorage)")
    page.reload()
    expect(page.locator("#status")).to_have_text("Ready")
    assert KEYS["ann"] not in page.url
    other = page.context.new_page()
    other.goto(live.url)
    expect(other.locator("#status")).to_have_text("This server wants an API key")


def test_without_motion_it_asks_less_often(open_page: OpenPage, served: LiveServer):
    page = open_page(served.url, reduced_motion="reduce")
    expect(page.locator("#machine .bar span").first).to_be_attached()
    assert page.evaluate("getComputedStyle(document.querySelector('.bar span')).transitionDuration") == "0s"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def process(port: int) -> Iterator[subprocess.Popen[str]]:
    """A real server on ``port``."""
    command = [sys.executable, "-m", "steelyard.cli.main", "serve", "--port", str(port), "--max-model-len", "2048"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        threading.Thread(target=lambda: [None for _ in server.stderr], daemon=True).start()  # type: ignore[union-attr]
        try:
            wait_until(lambda: is_healthy(port))
            yield server
        finally:
            server.kill()


def is_healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
    except httpx.TransportError:
        return False


def test_a_server_that_is_killed_and_comes_back(open_page: OpenPage):
    port = free_port()
    with process(port) as server:
        page = open_page(f"http://127.0.0.1:{port}")
        expect(page.locator("#status")).to_have_text("Ready")
        ask_long(page)
        expect(last(page).locator(".text")).to_contain_text(re.compile(".{40}", re.DOTALL))
        server.send_signal(signal.SIGKILL)
        expect(last(page).locator(".problem")).to_contain_text("The server went away before the answer was complete")
    expect(page.locator("#status")).to_have_text("The server is away; trying again")
    expect(page.locator("#send")).to_be_disabled()
    partial = told(page)
    ask(page, "Are you there?")
    expect(page.locator("#notice")).to_contain_text("Your message is kept")
    with process(port):
        expect(page.locator("#status")).to_have_text("Ready")
        expect(page.locator("#notice")).to_be_empty()
        assert told(page) == partial, "the conversation is still there"
        page.locator("#message").press("Enter")
        expect(page.locator(".message")).to_have_count(4)
        expect(last(page).locator(".text")).to_contain_text(re.compile("."))
        page.keyboard.press("Escape")
        expect(page.locator("#throughput")).to_have_attribute("aria-label", re.compile("of answers"))
