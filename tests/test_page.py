"""How the page for people is served. What it does is in tests/test_page_browser.py."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from service.settings import ROOT
from tests.running import check_problem, running

WEB = ROOT / "service" / "web"
FILES = sorted(path.name for path in WEB.iterdir())


@pytest.fixture(scope="module")
def service(tiny_artefact: Path):
    with running(tiny_artefact) as service:
        yield service


def test_every_file_of_the_page_is_served_with_its_type_and_a_strict_policy(service) -> None:
    types = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
    for name in FILES:
        answer = service.client.get(f"/web/{name}")
        assert answer.status_code == 200
        assert answer.content == (WEB / name).read_bytes()
        assert answer.headers["content-type"].partition(";")[0] == types[Path(name).suffix]
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
    assert service.client.get("/").content == (WEB / "index.html").read_bytes()


def test_who_has_a_file_already_is_not_sent_it_again(service) -> None:
    first = service.client.get("/")
    assert first.headers["cache-control"] == "no-cache"
    for known in (first.headers["etag"], f"W/{first.headers['etag']}", f'"other", {first.headers["etag"]}'):
        again = service.client.get("/", headers={"if-none-match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
    assert service.client.get("/", headers={"if-none-match": '"other"'}).status_code == 200


@pytest.mark.parametrize("name", ["none.js", "..%2fpage.py", "%2e%2e%2fpage.py", "index.html%00"])
def test_nothing_else_is_served(service, name: str) -> None:
    check_problem(service.client.get(f"/web/{name}"), 404, "unknown-path")


def test_the_page_has_no_inline_script_or_style_and_names_no_other_place() -> None:
    page = (WEB / "index.html").read_text("utf-8")
    assert not re.search(r"<style|<script(?![^>]* src=)|\sstyle=|\son[a-z]+=|javascript:", page)
    for name in FILES:
        text = (WEB / name).read_text("utf-8")
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|\beval\(", text), name


def test_what_the_page_and_its_scripts_ask_for_is_there() -> None:
    for name in FILES:
        text = (WEB / name).read_text("utf-8")
        for path in re.findall(r'"/web/([^"]+)"', text) + re.findall(r'from "\./([^"]+)"', text):
            assert path in FILES, (name, path)
    script = (WEB / "main.js").read_text("utf-8")
    page = (WEB / "index.html").read_text("utf-8")
    assert set(re.findall(r'\$\("([^"]+)"\)', script)) <= set(re.findall(r'\bid="([^"]+)"', page))


def test_an_installed_service_has_the_page() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert "web/*" in project["tool"]["setuptools"]["package-data"]["service"]
