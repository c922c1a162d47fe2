"""The page's files: addresses, headers, and what is in them."""

from __future__ import annotations

import re

import httpx
from live_server import LiveServer

from steelyard.serve.dashboard.assets import Page

MAX_BYTES = 80_000


def test_the_page_needs_no_key_and_may_load_only_from_here(live: LiveServer):
    with httpx.Client(base_url=live.url) as anonymous:
        index = anonymous.get("/")
        assert index.status_code == 200
        assert index.headers["content-type"] == "text/html; charset=utf-8"
        policy = index.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert index.headers["x-content-type-options"] == "nosniff"
        assert anonymous.get("/dashboard/state").status_code == 401
        assert anonymous.get("/dashboard/else").status_code == 401
        assert anonymous.post("/").status_code == 405


def test_browsers_keep_files_for_ever_and_ask_for_the_page_each_time(live: LiveServer):
    with httpx.Client(base_url=live.url) as anonymous:
        index = anonymous.get("/")
        assert index.headers["cache-control"] == "no-cache"
        again = anonymous.get("/", headers={"if-none-match": index.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        paths = re.findall(r'(?:src|href)="(dashboard/[^"]+)"', index.text)
        assert {path.rsplit(".", 1)[1] for path in paths} == {"css", "js", "svg"}
        for path in paths:
            file = anonymous.get("/" + path)
            assert file.status_code == 200
            assert "immutable" in file.headers["cache-control"]
            assert "default-src 'none'" in file.headers["content-security-policy"]


def test_another_content_has_another_address(tmp_path, monkeypatch):
    monkeypatch.setattr("steelyard.serve.dashboard.assets._DIRECTORY", tmp_path)
    (tmp_path / "index.html").write_text("{{assets}}")
    (tmp_path / "notes.txt").write_text("not served")
    seen = set()
    for text in ("a", "b"):
        (tmp_path / "app.js").write_text(text)
        page = Page()
        seen |= page.paths
        assert len(page.paths) == 2
        assert f"/{page.assets['/'].body.decode()}/app.js" in page.paths
    assert len(seen) == 3


def test_it_is_small_and_nothing_comes_from_elsewhere():
    page = Page()
    assert sum(len(asset.body) for asset in page.assets.values()) < MAX_BYTES
    for path, asset in page.assets.items():
        text = asset.body.decode().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://", text), path
        assert "innerHTML" not in text
        assert "eval(" not in text


def test_every_module_that_is_imported_is_there():
    page = Page()
    modules = {path.rsplit("/", 1)[1]: asset.body.decode() for path, asset in page.assets.items()}
    for text in modules.values():
        for name in re.findall(r'from "\./([a-z]+\.js)"', text):
            assert name in modules
