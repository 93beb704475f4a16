"""Runs every client against a gateway, and writes the table of docs/clients.md.

    python -m tests.clients.matrix

runs all clients and writes the table. A client whose behaviour has no row fails its test.
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from tests.clients.programs import CLIENTS, Client, Failed
from tests.support.gateway import REPOSITORY, Gateway, fill, running, wait_for
from tests.support.trees import read_tree, write_tree

PAGE: Final = REPOSITORY / "docs/clients.md"
_BEGIN: Final = "<!-- Written by python -m tests.clients.matrix -->\n"
_END: Final = "<!-- End of what it writes -->\n"

_HEAD: Final = (
    "client", "version string", "cipher", "lists", "reads", "resumes", "copies a folder",
    "a link is", "writing", "a missing file",
)  # fmt: skip

HOME: Final = "/home/gvpocr/"
_FOLDER: Final = HOME + "models"
_FILE: Final = _FOLDER + "/weights.bin"
_TREE: Final = {
    b"weights.bin": os.urandom(3_000_001),
    b"resumed.bin": os.urandom(3_000_001),
    b"empty": b"",
    b"with space/deep/er/file.txt": b"deep\n",
    b"with space/\xe0\xa4\xaa\xe0\xa4\xa4\xe0\xa5\x8d\xe0\xa4\xb0.txt": b"letter\n",
    b".hidden": b"hidden\n",
}
_LETTER: Final = b"Dear reader,\n"
_HAVE: Final = 2_000_000


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Gateway]:
    """A gateway with the files that the clients use."""
    with running(folder, SFTP_GATEWAY_WORKERS="1") as gateway:
        _fill(gateway)
        yield gateway


def _fill(gateway: Gateway) -> None:
    shared = gateway.folder / "shared"
    (shared / "models/README.txt").unlink()
    write_tree(shared / "models", _TREE)
    fill(shared / "newsletters", {"2024/letter.txt": _LETTER})
    (shared / "newsletters/latest.txt").symlink_to("2024/letter.txt")


def row(gateway: Gateway, name: str, folder: Path) -> str:
    """Run all operations of a client; returns its row of the table.

    Raises AssertionError on wrong bytes or other wrong results.
    """
    before = len(gateway.events())
    client = CLIENTS[name](gateway, folder)
    cells = []
    with client.connected():
        for operation, attempt in _OPERATIONS.items():
            if reason := client.cannot.get(operation):
                cells.append(f"no: {reason}")
            elif reason := client.fails.get(operation):
                _failure(functools.partial(attempt, client))
                cells.append(f"no: {reason}")
            else:
                cells.append(attempt(client))

    # A single worker writes lines in order, so all of the client's lines precede this one.
    done = f"echo {[*CLIENTS].index(name)}"
    gateway.ssh(done)
    gateway.wait_event("command_answered", command=done)
    events = gateway.events()[before:]
    sessions = [event for event in events if event["event"] == "login_accepted"][:-1]
    found = {(session["client_version"].split()[0], session["cipher"]) for session in sessions}
    assert len(found) == 1, found
    [(version, cipher)] = found
    denied = [event["reason"] for event in events if event["event"] == "denied"]
    assert {*denied} == {"read_only"}, denied
    return _line([name, f"`{version.removeprefix('SSH-2.0-')}`", f"`{cipher}`", *cells])


def _lists(client: Client) -> str:
    expected = {"weights.bin", "resumed.bin", "empty", "with space", ".hidden"}
    found = client.list(_FOLDER) - {".", ".."}
    assert found == expected, found
    return "yes"


def _reads(client: Client) -> str:
    assert client.read(_FILE) == _TREE[b"weights.bin"]
    return "yes"


def _resumes(client: Client) -> str:
    local = client.folder / "part"
    local.write_bytes(_TREE[b"resumed.bin"][:_HAVE])
    path = f"{_FOLDER}/resumed.bin"
    before = len(client.gateway.events("file_opened", path=path))
    client.resume(path, local)
    assert local.read_bytes() == _TREE[b"resumed.bin"]

    def closed() -> list[dict[str, Any]]:
        opened = client.gateway.events("file_opened", path=path)
        events = client.gateway.events("file_closed", path=path)
        return events[before:] if len(events) == len(opened) > before else []

    read = sum(event["bytes"] for event in wait_for(closed, "the file to be closed"))
    assert read < _HAVE, read
    return "yes"


def _copies(client: Client) -> str:
    client.copy(_FOLDER, client.folder / "copy")
    assert read_tree(client.folder / "copy") == _TREE
    return "yes"


def _link(client: Client) -> str:
    path = f"{HOME}newsletters/latest.txt"
    assert client.read(path) == _LETTER
    if reason := client.cannot.get("link"):
        return f"a file: {reason}"
    return f"a {client.link(path)}".replace("2024/letter.txt", "its target")


def _writing(client: Client) -> str:
    local = client.folder / "new.txt"
    local.write_bytes(b"new\n")
    message = _failure(lambda: client.write(local, f"{_FOLDER}/new.txt"))
    assert not (client.gateway.folder / "shared/models/new.txt").exists()
    return f"`{message}`"


def _missing(client: Client) -> str:
    return f"`{_failure(lambda: client.read(f'{_FOLDER}/none.txt'))}`"


_OPERATIONS: Final[dict[str, Callable[[Client], str]]] = {
    "list": _lists,
    "read": _reads,
    "resume": _resumes,
    "copy": _copies,
    "meet a link": _link,
    "write": _writing,
    "missing": _missing,
}


def _failure(attempt: Callable[[], object]) -> str:
    """The message of a client that has to fail."""
    try:
        attempt()
    except Failed as failed:
        return str(failed).replace("|", r"\|").replace("`", "'")
    raise AssertionError("the client took it for a success")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def documented() -> list[str]:
    """The table's rows in docs/clients.md."""
    table = PAGE.read_text().partition(_BEGIN)[2].partition(_END)[0]
    return table.splitlines(keepends=True)[2:]


def _write(rows: Sequence[str]) -> None:
    page = PAGE.read_text()
    before, after = page.partition(_BEGIN)[0], page.partition(_END)[2]
    table = _line(_HEAD) + "|" + "---|" * len(_HEAD) + "\n" + "".join(rows)
    PAGE.write_text(before + _BEGIN + table + _END + after)


def _main() -> None:
    with tempfile.TemporaryDirectory() as made, serving(Path(made)) as gateway:
        rows = []
        for number, name in enumerate(CLIENTS):
            folder = Path(made) / f"client{number}"
            folder.mkdir()
            rows.append(row(gateway, name, folder))
            print(rows[-1], end="", flush=True)
    _write(rows)


if __name__ == "__main__":
    _main()
