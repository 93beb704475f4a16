"""The status page in Chromium: with and without scripts, light and dark, wide and narrow."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.browser import Browser
from tests.support.gateway import Gateway, fill, running, wait_for

pytestmark = pytest.mark.integration

#: Window widths: desktop and phone.
WIDTHS = (1280, 390, 320)

LONG = "-".join(["a-name-that-is-longer-than-most"] * 6) + ".safetensors"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with some reads and a refused login."""
    with running(tmp_path_factory.mktemp("status")) as gateway:
        files = {name: os.urandom(50_000) for name in ("<img src=x>.bin", "पत्र.tif", LONG)}
        fill(gateway.folder / "shared/models", files)
        fill(gateway.folder / "shared/newsletters", {f"{n:02}.pdf": b"x" for n in range(30)})
        assert gateway.sftp("get models/* /tmp/", "get newsletters/* /tmp/").returncode == 0
        assert gateway.ssh("true", user="nobody").returncode
        wait_for(lambda: "nobody" in gateway.http("/")[1], "the page to have it all")
        yield gateway


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as made:
        yield made


@pytest.fixture
def url(gateway: Gateway, browser: Browser) -> Iterator[str]:
    browser.scripts(True)
    browser.set_viewport(width=1280)
    browser.requests.clear()
    browser.complaints.clear()
    url = f"http://127.0.0.1:{gateway.metrics_port}/"
    yield url
    assert browser.complaints == []
    assert [each for each in browser.requests if not each.startswith(url)] == []


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
@pytest.mark.parametrize("dark", [True, False], ids=["dark", "light"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_is_complete_and_fits_the_window(
    browser: Browser, url: str, width: int, dark: bool, scripts: bool
) -> None:
    browser.scripts(scripts)
    browser.set_viewport(width=width, dark=dark)
    browser.open(url)
    text = browser.text()
    for heading in ("Throughput", "Live sessions", "Recent accesses", "Top files",
                    "Refused logins", "Bans", "Shares", "Processes"):  # fmt: skip
        assert heading in text
    assert browser.run("document.documentElement.scrollWidth") <= width
    background = browser.run("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(20, 23, 26)" if dark else "rgb(251, 251, 249)")


def test_names_are_shown_literally(browser: Browser, url: str) -> None:
    browser.open(f"{url}?share=models")
    assert "<img src=x>.bin" in browser.text("#accesses ~ div")
    assert "पत्र.tif" in browser.text("#accesses ~ div")
    assert browser.run("document.images.length") == 0


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
def test_accesses_can_be_filtered_and_paged(browser: Browser, url: str, scripts: bool) -> None:
    browser.scripts(scripts)
    browser.open(url)
    browser.run("document.querySelector('[name=share]').value = 'models'")
    browser.run("document.querySelector('[name=path]').value = 'tif'")
    browser.follow("document.querySelector('form button').click()")
    rows = "document.querySelectorAll('#accesses ~ div tbody tr').length"
    assert browser.run(rows) == 1
    assert "पत्र.tif" in browser.text("#accesses ~ div")
    assert browser.run("document.querySelector('[name=path]').value") == "tif"
    browser.follow("document.querySelector('form a').click()")
    assert browser.run(rows) == 20
    first = browser.text("#accesses ~ div")
    browser.follow("[...document.querySelectorAll('.pages a')].at(-1).click()")
    assert browser.text("#accesses ~ div") != first
    assert "Newest" in browser.text(".pages")


def test_the_page_refreshes_until_paused(browser: Browser, url: str, gateway: Gateway) -> None:
    browser.open(url)
    with gateway.mounted(gateway.folder / "mount"):
        wait_for(lambda: "gvpocr" in browser.text('[data-live="sessions"]'), "the session")
    wait_for(lambda: "No sessions" in browser.text('[data-live="sessions"]'), "its end")
    browser.run("document.querySelector('#pause').click()")
    assert browser.text("#pause") == "Resume"
    seen = len(browser.requests)
    assert gateway.sftp("ls").returncode == 0
    browser.run("new Promise(done => setTimeout(done, 5500))")
    assert len(browser.requests) == seen


def test_every_part_has_an_accessible_name(browser: Browser, url: str) -> None:
    browser.open(url)
    nameless = """[...document.querySelectorAll('section,table,input,select,button,nav,svg,form')]
        .filter(each => !(each.getAttribute('aria-label') || each.getAttribute('aria-labelledby')
            || each.getAttribute('aria-hidden') || each.closest('label') || each.caption
            || each.textContent.trim() && each.tagName === 'BUTTON'))
        .map(each => each.outerHTML.slice(0, 100))"""
    assert browser.run(nameless) == []
    assert browser.run("document.querySelectorAll('th:not([scope])').length") == 0
    assert browser.run("document.querySelectorAll('main,header,footer,h1').length") == 4


#: Contrast of each text with its background, by WCAG 2.1.
CONTRAST = """(() => {
    const numbers = color => color.match(/[\\d.]+/g).map(Number);
    const light = color => numbers(color).slice(0, 3).map(c => c / 255)
        .map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = element => {
        for (; element; element = element.parentElement) {
            const color = getComputedStyle(element).backgroundColor;
            if (numbers(color)[3] !== 0) return color;
        }
        return 'rgb(255, 255, 255)';
    };
    const poor = [];
    for (const element of document.querySelectorAll('body *')) {
        const own = [...element.childNodes].some(n => n.nodeType === 3 && n.data.trim());
        if (!own || element.closest('svg,option')) continue;
        const [a, b] = [light(getComputedStyle(element).color), light(behind(element))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) poor.push([element.className, element.textContent.slice(0, 40), ratio]);
    }
    return poor;
})()"""


@pytest.mark.parametrize("dark", [True, False], ids=["dark", "light"])
def test_all_text_has_enough_contrast(browser: Browser, url: str, dark: bool) -> None:
    browser.set_viewport(width=1280, dark=dark)
    browser.open(url)
    assert browser.run(CONTRAST) == []


def test_the_token_is_requested_once(browser: Browser, tmp_path: Path) -> None:
    with running(tmp_path, SFTP_GATEWAY_METRICS_HOST="0.0.0.0") as gateway:
        browser.complaints.clear()
        browser.scripts(False)
        url = f"http://localhost:{gateway.metrics_port}/"
        browser.open(url)
        assert "keys/status_token" in browser.text()
        token = (tmp_path / "keys/status_token").read_text().strip()
        browser.run(f"document.querySelector('[name=token]').value = '{token}'")
        browser.follow("document.querySelector('button').click()")
        assert "Throughput" in browser.text()
        assert browser.run("location.href") == url
        browser.open(url)
        assert "Throughput" in browser.text()
        browser.scripts(True)
