"""The pictures of the status page: `scripts/screenshots` runs it.

The gateway, its clients, their reads, refusals and bans are real. Only what was before, the
hours that the chart shows, is put into the history before the gateway starts.
"""

from __future__ import annotations

import contextlib
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from sftp_gateway.auth import generate_ed25519
from sftp_gateway.observability.history.store import Store, row_of
from tests.support.browser import Browser
from tests.support.gateway import REPOSITORY, Gateway, wait_for

NAMESPACE = "sftp-demo"
SERVER, NETWORK = "10.77.0.1", "10.77.0"

USERS = {"ocr": 21, "archive": 22, "training": 23, "newsletters": 24}
SHARES = {
    "Bhushanji": ("scans/1985/पत्र {n:03}.tif", 48),
    "newsletters": ("pdf/{year}/newsletter-{year}-{n:02}.pdf", 36),
    "models": ("indic-ocr-v3/model-{n:05}-of-00008.safetensors", 8),
    ".cache/huggingface/hub": ("models--ai4bharat--indic-bert/blobs/{n:08x}b41f", 6),
}
READERS = {"ocr": "Bhushanji", "archive": "newsletters", "training": "models",
           "newsletters": "newsletters"}  # fmt: skip

CONFIG = """
workers = 2
[penalties]
exempt = []
[users.ocr]
bandwidth_limit = 14_000_000
[users.archive]
bandwidth_limit = 3_000_000
[users.training]
bandwidth_limit = 32_000_000
[users.newsletters]
shares = ["newsletters"]
"""

#: Name, width, dark; phones have the pixels of one.
PHONE_HEIGHT = 1700
PICTURES = (
    ("status-desktop-light", 1280, False),
    ("status-desktop-dark", 1280, True),
    ("status-phone-light", 390, False),
    ("status-phone-dark", 390, True),
)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="status-demo-") as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)
        make_shares(folder)
        make_past(folder)
        gateway = Gateway(folder, CONFIG, {"SFTP_GATEWAY_HOST": ""})
        try:
            make_keys(gateway)
            with network():
                gateway.start()
                with traffic(gateway):
                    take(gateway, REPOSITORY / "docs")
        finally:
            gateway.close()


def names(share: str) -> list[str]:
    pattern, count = SHARES[share]
    return [pattern.format(n=n, year=2012 + n // 12) for n in range(1, count + 1)]


def size_of(share: str) -> int:
    return {"models": 400, "Bhushanji": 30, ".cache/huggingface/hub": 60}.get(share, 4) << 20


def make_shares(folder: Path) -> None:
    """Sparse files: the page shows no content."""
    for share in SHARES:
        root = folder / "shared" / share.removeprefix(".cache/")
        for name in names(share):
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.truncate(size_of(share) + 4099 * len(name))


def make_keys(gateway: Gateway) -> None:
    for user in USERS:
        pair = generate_ed25519(user)
        gateway.authorize(user, pair.public_line)
        key = gateway.folder / f"{user}.key"
        key.write_bytes(pair.private_pem)
        key.chmod(0o600)


def make_past(folder: Path) -> None:
    """The last day of an office: a rise at nine, a dip at one, some reading in the night."""
    random.seed(7)
    (folder / "state").mkdir()
    now = time.time()
    store = Store(folder / "state/history.sqlite3", max_age=86_400 * 30, max_size=1 << 26)
    rows, sent = [], {}
    readers = [
        ("ocr", "Bhushanji", 9e6),
        ("training", "models", 2.2e7),
        ("archive", "newsletters", 2.5e6),
        ("training", ".cache/huggingface/hub", 5e6),
    ]
    for minute in range(int(now // 60) - 24 * 60, int(now // 60)):
        ago = (now / 60 - minute) / 60
        for number, (user, share, rate) in enumerate(readers):
            busy = 0.5 + 0.5 * math.sin(ago * (1.1 + 0.35 * number) + number * 1.7)
            busy = max(0.0, busy - 0.25) * random.uniform(0.7, 1.25)
            if share == "models" and not 0.4 < ago % 3.1 < 1.6:
                busy *= 0.1
            for kind, name in (("share", share), ("user", user)):
                key = minute, kind, name
                sent[key] = sent.get(key, 0) + int(busy * rate * 60)
        if random.random() < 0.9:
            rows += past_rows(minute * 60 + random.uniform(0, 60), readers)
    store.add(rows, sent)
    store.close()


def past_rows(when: float, readers: list[tuple[str, str, float]]) -> Iterator[tuple[object, ...]]:
    user, share, _ = random.choice(readers)
    name = random.choice(names(share)[:12])
    size = size_of(share) + 4099 * len(name)
    fields = {
        "time": f"{datetime.fromtimestamp(when, UTC):%Y-%m-%dT%H:%M:%S.%f}Z",
        "event": "file_closed", "session": "0" * 16, "client_ip": f"{NETWORK}.{USERS[user]}",
        "client_port": 50000, "user": user, "share": share,
        "path": f"/home/{user}/{share}/{name}", "size": size, "bytes": size, "reads": 100,
        "duration": round(size / 2e7, 6), "whole": True, "result": "ok",
    }  # fmt: skip
    found = row_of(json.dumps(fields, ensure_ascii=False).encode())
    assert found is not None
    yield found[0]


@contextlib.contextmanager
def network() -> Iterator[None]:
    """A namespace whose addresses are those of the workers."""

    def ip(*words: str, check: bool = True) -> None:
        subprocess.run(["ip", *words], check=check)

    ip("netns", "add", NAMESPACE)
    try:
        ip("link", "add", "demo0", "type", "veth", "peer", "name", "demo1", "netns", NAMESPACE)
        ip("addr", "add", f"{SERVER}/24", "dev", "demo0")
        ip("link", "set", "demo0", "up")
        for host in (*USERS.values(), 66):
            ip("-n", NAMESPACE, "addr", "add", f"{NETWORK}.{host}/24", "dev", "demo1")
        ip("-n", NAMESPACE, "link", "set", "demo1", "up")
        yield
    finally:
        ip("netns", "del", NAMESPACE, check=False)
        ip("link", "del", "demo0", check=False)


@contextlib.contextmanager
def traffic(gateway: Gateway) -> Iterator[None]:
    """Workers that read, one that may not log in, and one that is denied access."""
    with contextlib.ExitStack() as stack:
        for user in USERS:
            mount = stack.enter_context(mounted(gateway, user))
            folder = mount / READERS[user]
            read_some(folder)
            if user in ("ocr", "training", "archive"):
                command = 'while :; do for f in "$@"; do cat "$f" > /dev/null; done; done'
                files = sorted(path for path in folder.rglob("*") if path.is_file())[3:]
                reader = subprocess.Popen(["bash", "-c", command, "-", *map(str, files)])
                stack.callback(end, reader)
        denied = mount_less(
            gateway, "newsletters", "rm newsletters/pdf/2013/newsletter-2013-12.pdf"
        )
        assert denied.returncode
        for name in ("root", "admin", "oracle", "admin", "test", "pi", "admin"):
            guess(gateway, name)
        gateway.wait_event("source_banned")
        time.sleep(9)  # so that there are several pictures of what is read
        yield


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait()


def read_some(folder: Path) -> None:
    for path in sorted(path for path in folder.rglob("*") if path.is_file())[:2]:
        with path.open("rb") as file:
            file.read(8 << 20)


def within(*command: str) -> list[str]:
    return ["ip", "netns", "exec", NAMESPACE, *command]


def ssh_options(gateway: Gateway, user: str) -> list[str]:
    key = gateway.folder / f"{user}.key"
    return [
        "-F", "none", f"-oBindAddress={NETWORK}.{USERS.get(user, 66)}", f"-oIdentityFile={key}",
        "-oIdentitiesOnly=yes", "-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null",
        "-oBatchMode=yes", "-oLogLevel=ERROR",
    ]  # fmt: skip


@contextlib.contextmanager
def mounted(gateway: Gateway, user: str) -> Iterator[Path]:
    at = gateway.folder / f"mnt-{user}"
    at.mkdir()
    options = [each for each in ssh_options(gateway, user) if each.startswith("-o")]
    sshfs = subprocess.Popen(
        within("sshfs", "-f", "-p", str(gateway.port), f"{user}@{SERVER}:", str(at), *options),
        stdin=subprocess.DEVNULL,
    )
    try:
        # `ip netns exec` mounts in a namespace of its own; the way in is by its process.
        root = Path(f"/proc/{sshfs.pid}/root")
        wait_for((root / at.relative_to("/") / READERS[user]).is_dir, f"{at}")
        yield root / at.relative_to("/")
    finally:
        end(sshfs)


def mount_less(gateway: Gateway, user: str, command: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        within("sftp", *ssh_options(gateway, user), "-P", str(gateway.port), "-b", "-",
               f"{user}@{SERVER}"),
        input=command.encode(), capture_output=True,
    )  # fmt: skip


def guess(gateway: Gateway, name: str) -> None:
    options = ssh_options(gateway, "nobody")
    options[options.index(f"-oIdentityFile={gateway.folder / 'nobody.key'}")] = (
        f"-oIdentityFile={gateway.folder / 'newsletters.key'}"
    )
    subprocess.run(
        within("ssh", *options, "-p", str(gateway.port), f"{name}@{SERVER}", "true"),
        capture_output=True,
    )


def take(gateway: Gateway, folder: Path) -> None:
    url = f"http://127.0.0.1:{gateway.metrics_port}/"
    with Browser() as browser:
        for name, width, dark in PICTURES:
            browser.set_viewport(width=width, height=900, dark=dark, scale=1 if width > 600 else 2)
            browser.open(url)
            path = folder / f"{name}.png"
            browser.picture(path, height=PHONE_HEIGHT if width < 600 else None)
            subprocess.run(
                ["pngquant", "--force", "--skip-if-larger", "--speed", "1", "--output", str(path),
                 "64", str(path)],
                check=False,
            )  # fmt: skip
            print(f"{path}: {path.stat().st_size // 1024} KiB", file=sys.stderr)


if __name__ == "__main__":
    main()
