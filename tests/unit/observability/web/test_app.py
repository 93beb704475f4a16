"""Access to the status page, its content, and the escaping of names."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from sftp_gateway.observability.gateway_state import Ban, GatewayState, WorkerState
from sftp_gateway.observability.history.queries import History
from sftp_gateway.observability.history.session_registry import SessionRegistry
from sftp_gateway.observability.history.store import Store
from sftp_gateway.observability.web.app import StatusApp
from sftp_gateway.observability.web.auth import COOKIE, TokenAuth
from sftp_gateway.observability.web.page import ACCESSES, Sources
from sftp_gateway.observability.web.routes import Request, Response
from tests.support.history import line, read, row
from tests.support.measured import gateway_state

TOKEN = "correct horse battery staple"
HOSTILE = "<script>alert(1)</script>\"'&\u202egpj.exe\x1b[31m\n</td></table><img src=x onerror=y>"

Make = Callable[..., StatusApp]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def status_app(
        *written: bytes,
        token: str | None = None,
        local: bool = True,
        state: GatewayState | None = None,
        registry: SessionRegistry | None = None,
    ) -> StatusApp:
        store = Store(tmp_path / "history.sqlite3", max_age=1e9, max_size=1 << 30)
        store.add([row(each) for each in written], {})
        store.close()
        return StatusApp(
            sources=Sources(
                state=lambda: state,
                registry=registry or SessionRegistry(),
                history=History(tmp_path / "history.sqlite3"),
                version="1.2.3",
            ),
            auth=TokenAuth(token=token, local=local),
            token_location="keys/status_token",
        )

    return status_app


def get(
    status_app: StatusApp, path: str = "/", host: str = "localhost:9222", **headers: str
) -> Response:
    return status_app(Request(path=path, headers={"host": host, **headers}))


def post(status_app: StatusApp, form: bytes, path: str = "/") -> Response:
    return status_app(Request(path=path, headers={"host": "gateway.example"}, form=form))


def text_of(page: Response) -> str:
    return page.body.decode()


# Access


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:9222", "[::1]:8080", "localhost:1"])
def test_local_clients_need_no_token(make: Make, host: str) -> None:
    assert get(make(), host=host).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:9222", "localhost.evil.example", "", "[", "192.0.2.1"]
)
def test_a_foreign_host_name_is_refused(make: Make, host: str) -> None:
    page = get(make(), host=host)
    assert page.status == 403
    assert "SFTP_GATEWAY_STATUS__TOKEN" in text_of(page)
    assert "Throughput" not in text_of(page)


@pytest.mark.parametrize("path", ["/", "/status.json", "/?user=ana"])
def test_without_a_configured_token_remote_clients_see_a_hint_only(make: Make, path: str) -> None:
    page = get(make(local=False), path)
    assert page.status == 403
    assert "sftp-gateway init" in text_of(page)
    assert "keys/status_token" in text_of(page)


@pytest.mark.parametrize("local", [True, False])
def test_a_configured_token_is_required(make: Make, local: bool) -> None:
    status_app = make(token=TOKEN, local=local)
    for headers in ({}, {"authorization": "Bearer wrong"}, {"cookie": f"{COOKIE}=x"},
                    {"cookie": f"{COOKIE}={TOKEN}"}, {"authorization": f"Basic {TOKEN}"},
                    {"cookie": "\x00=;;"}, {"authorization": "Bearer"}):  # fmt: skip
        page = get(status_app, **headers)
        assert page.status == 401, headers
        assert "<form" in text_of(page)
        assert "Throughput" not in text_of(page)
    assert get(status_app, "/status.json").status == 401
    assert get(status_app, authorization=f"Bearer {TOKEN}").status == 200


def test_a_posted_token_sets_a_cookie(make: Make) -> None:
    status_app = make(token=TOKEN, local=False)
    page = post(status_app, b"token=correct+horse+battery+staple", "/?hours=1")
    headers = dict(page.headers)
    assert page.status == 303
    assert headers["Location"] == "?hours=1"
    cookie, *attributes = headers["Set-Cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict"} <= set(attributes)
    assert TOKEN not in headers["Set-Cookie"]
    assert get(status_app, cookie=f"other=1; {cookie}").status == 200
    assert get(make(token=TOKEN + "2", local=False), cookie=cookie).status == 401


@pytest.mark.parametrize("form", [b"token=wrong", b"", b"token", b"\xff=%ff", b"token=%ff"])
def test_a_wrong_token_is_refused(make: Make, form: bytes) -> None:
    page = post(make(token=TOKEN), form)
    assert page.status == 401
    assert "Wrong token" in text_of(page)
    assert "Set-Cookie" not in dict(page.headers)


def test_a_token_in_the_url_is_ignored(make: Make) -> None:
    page = get(make(token=TOKEN), "/?token=correct+horse+battery+staple")
    assert page.status == 401
    assert '<form method="post">' in text_of(page)
    assert "Set-Cookie" not in dict(page.headers)


def test_the_page_forbids_external_content_and_framing(make: Make) -> None:
    for status_app in (make(), make(token=TOKEN)):
        headers = dict(get(status_app).headers)
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; ")
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/status.css", "text/css"), ("/status.js", "text/javascript"), ("/status.svg", "image/svg")],
)
def test_static_files_need_no_token(make: Make, path: str, kind: str) -> None:
    page = get(make(token=TOKEN), path)
    assert page.status == 200
    assert page.content_type.startswith(kind)


def test_unknown_paths_are_not_found(make: Make) -> None:
    assert get(make(), "/status/../../etc/passwd").status == 404
    assert get(make(), "/status.py").status == 404


# Content


class Tags(HTMLParser):
    """The tags and attributes of a page; asserts that each tag is closed in order."""

    VOID = frozenset({"meta", "link", "input", "rect", "line", "option"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def serving(**changed: Any) -> GatewayState:
    worker = WorkerState(number=0, pid=7, ready=True, seen=time.monotonic(), problems={})
    return gateway_state(**{"workers": (worker,), "shares": ("models",), **changed})


def test_strings_from_clients_are_escaped_in_html(make: Make) -> None:
    registry = SessionRegistry()
    session = {"session": HOSTILE, "user": HOSTILE, "client_ip": HOSTILE, "requests": 1,
               "credential": HOSTILE, "key_label": HOSTILE, "client_version": HOSTILE,
               "started": 0, "bytes": 1, "open": 1,
               "files": [(HOSTILE, HOSTILE, 10, 5)]}  # fmt: skip
    snapshot = {"worker": 7, "more": False, "started": 0, "total": 1, "sent": {HOSTILE: 1}}
    registry.update(json.dumps({"live": {**snapshot, "sessions": [session]}}).encode())
    ban = Ban(source=HOSTILE, reason=HOSTILE, times=2, effect=HOSTILE, seconds=9)
    now = time.time()
    status_app = make(
        read(HOSTILE, user=HOSTILE, at=now),
        line(
            "login_refused",
            at=now,
            user_tried=HOSTILE,
            reason=HOSTILE,
            method=HOSTILE,
            key=HOSTILE,
            key_label=HOSTILE,
        ),
        line("worker_exited", at=now, signal=HOSTILE, connections=HOSTILE, expected=False),
        line("denied", at=now, user=HOSTILE, path=HOSTILE, operation=HOSTILE, reason=HOSTILE),
        line(HOSTILE, at=now, client_ip=HOSTILE),
        registry=registry,
        state=serving(shares=(HOSTILE,), bans=(ban,), banned=1),
    )
    query = "/?" + "&".join(
        f"{name}=%3Cscript%3E%22%27%3E" for name in ("user", "share", "key", "path")
    )
    for path in ("/", query):
        page = text_of(get(status_app, path))
        tags = Tags(page).found
        assert [attributes for tag, attributes in tags if tag == "script"] == [
            {"src": "status.js", "defer": None}
        ]
        assert not [tag for tag, _ in tags if tag in ("img", "style", "iframe")]
        assert not [name for _, attributes in tags for name in attributes if name[:2] == "on"]
        assert not [tag for tag, attributes in tags if "style" in attributes]
        assert "\u202e" not in page
        assert "\x1b" not in page
    assert "\\u202egpj.exe" in text_of(get(status_app))


def test_a_forged_line_does_not_break_the_page(make: Make) -> None:
    status_app = make(
        line("file_closed", path=["x"], bytes="many", duration={}, user=7),
        line("login_refused", user_tried={}, reason=[], method=None),
        read("models/good.bin"),
    )
    page = get(status_app)
    assert page.status == 200
    assert "good.bin" in text_of(page)


def test_the_page_shows_the_gateways_state(make: Make) -> None:
    assert ">Serving<" in text_of(get(make(state=serving())))
    assert "No worker is serving" in text_of(get(make(state=gateway_state())))
    assert "Process not responding" in text_of(get(make(state=None)))
    sick = WorkerState(
        number=0, pid=7, ready=True, seen=time.monotonic(), problems={"models": "it is gone"}
    )
    page = text_of(get(make(state=serving(workers=(sick,)))))
    assert "Serving; some shares are unavailable" in page
    assert "it is gone" in page


def test_accesses_are_filtered_and_paged_by_the_query(make: Make) -> None:
    written = [read(f"models/file-{n:03}.bin", user="ana" if n % 2 else "ben") for n in range(90)]
    status_app = make(*written)

    def files(path: str) -> list[str]:
        accesses = (
            text_of(get(status_app, path)).partition('id="accesses"')[2].partition("</section")[0]
        )
        return re.findall(r"file-(\d+)\.bin</bdi>", accesses)

    first = files("/")
    assert first == [f"{n:03}" for n in range(89, 89 - ACCESSES, -1)]
    assert set(files("/?user=ana")) == {f"{n:03}" for n in range(89, 89 - 2 * ACCESSES, -2)}
    assert files("/?path=file-042") == ["042"]
    assert files("/?user=nobody") == []
    assert '<a href="./#accesses">Clear</a>' in text_of(get(status_app, "/?user=ana"))
    assert "Clear</a>" not in text_of(get(status_app))
    links = re.findall(r'href="(\?[^"]*)#accesses">(\w+)<', text_of(get(status_app)))
    older = next(address for address, name in links if name == "Older")
    second = files(f"/{older}")
    assert second == [f"{n:03}" for n in range(89 - ACCESSES, 89 - 2 * ACCESSES, -1)]
    links = re.findall(r'href="(\?[^"]*)#accesses">(\w+)<', text_of(get(status_app, f"/{older}")))
    newer = next(address for address, name in links if name == "Newer")
    assert files(f"/{newer}") == first


def section(page: Response, name: str) -> str:
    return text_of(page).partition(f'id="{name}"')[2].partition("</section")[0]


def test_readers_are_distinguished_by_key(make: Make) -> None:
    registry = SessionRegistry()
    session = {"session": "a", "user": "gvpocr", "credential": "SHA256:1", "key_label": "worker7",
               "client_ip": "192.0.2.17", "client_version": "SSH-2.0-OpenSSH_9.2p1 Debian",
               "started": 0, "bytes": 1, "requests": 1, "open": 0, "files": []}  # fmt: skip
    snapshot = {
        "worker": 7,
        "more": False,
        "started": 0,
        "total": 1,
        "sent": {},
        "sessions": [session],
    }
    registry.update(json.dumps({"live": snapshot}).encode())
    status_app = make(
        read("models/one", user="gvpocr", key="SHA256:1", key_label="worker7"),
        read("models/two", user="gvpocr", key="SHA256:2", key_label="worker8"),
        registry=registry,
        state=serving(),
    )
    assert "worker7 · 192.0.2.17 · OpenSSH_9.2p1" in section(get(status_app), "sessions")
    assert "worker7 · 192.0.2.17" in section(get(status_app), "accesses")
    for key in ("worker8", "SHA256:2"):
        shown = section(get(status_app, f"/?key={key}"), "accesses")
        assert "two</bdi>" in shown
        assert "one</bdi>" not in shown


def test_refused_user_names_are_not_offered_as_filters(make: Make) -> None:
    stranger = line("login_refused", user_tried="root", reason="unknown_user", method="publickey")
    form = section(get(make(read("models/a", user="ana"), stranger)), "accesses")
    assert '<option value="ana">' in form
    assert '<option value="root">' not in form


def test_similar_refused_logins_are_grouped(make: Make) -> None:
    tried = [
        line("login_refused", user_tried=user, method="publickey", key="SHA256:1", reason="revoked")
        for user in [*["gvpocr"] * 40, "ana"]
    ]
    shown = section(get(make(*tried)), "logins")
    assert shown.count("<tr>") == 1 + 2
    assert "revoked, 40 times" in shown
    assert shown.count("SHA256:1") == 2


def test_denials_are_listed_in_order(make: Make) -> None:
    own = {"operation": "open", "reason": "read_only"}
    status_app = make(
        line("denied", user="ana", path="/home/ana/models/x", **own),
        line("denied", user="ana", path="/home/ben/models/y", **own),
    )
    shown = section(get(status_app), "accesses")
    assert "open denied: read only" in shown
    assert '<bdi class="under">models</bdi>' in shown
    assert '<bdi class="under">/home/ben/models</bdi>' in shown  # not shortened like one's own


def test_a_killed_worker_is_shown_with_its_broken_transfers(make: Make) -> None:
    own = {"session": None, "client_ip": None, "signal": "SIGKILL", "connections": 3}
    status_app = make(
        line("worker_exited", worker=0, pid=8, expected=False, **own),
        line("worker_exited", worker=1, pid=9, expected=True, **own),
    )
    shown = section(get(status_app), "accesses")
    assert shown.count("worker process ended: SIGKILL, broken connections: 3") == 1


@pytest.mark.parametrize(
    "query", ["hours=7&by=x", "before=abc", "before=" + "9" * 30, "after=-1", "user=%ff", "hours"]
)
def test_an_invalid_query_still_shows_the_page(make: Make, query: str) -> None:
    assert get(make(read("models/a")), f"/?{query}").status == 200


def test_an_unreadable_history_still_shows_the_state(make: Make, tmp_path: Path) -> None:
    status_app = make(state=serving())
    (tmp_path / "history.sqlite3").write_bytes(b"broken" * 1000)
    page = text_of(get(status_app))
    assert "The history cannot be read:" in page
    assert ">Serving<" in page


def test_status_json_has_the_state(make: Make) -> None:
    page = get(make(state=serving()), "/status.json")
    assert page.content_type == "application/json"
    assert json.loads(page.body)["total_sessions"] == 0
