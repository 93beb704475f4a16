"""The messages that docs/operations.md lists are the ones that clients print."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import paramiko
import pytest

from tests.clients.programs import CLIENTS, Failed, Rclone
from tests.integration.test_worker_doctor import NOBODY, process_of, silent_port
from tests.support.gateway import REPOSITORY, TIMEOUT, Gateway, fill, free_port, running, wait_for
from tests.support.keys import make_key, public_line

pytestmark = pytest.mark.integration

PAGE = (REPOSITORY / "docs/operations.md").read_text()


def documented(message: str) -> str:
    assert f"`{message}`" in PAGE.replace("\\|", "|") or f"\n{message}\n" in PAGE
    return message


def shell(script: str, *runner: str) -> str:
    """Its standard output and standard error."""
    ran = subprocess.run(
        [*runner, "bash", "-c", script],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=TIMEOUT, env={**os.environ, "LC_ALL": "C"},
    )  # fmt: skip
    return ran.stdout


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with the conditions of the messages, and few handles."""
    with running(tmp_path_factory.mktemp("gateway"), "max_handles = 16\n") as gateway:
        fill(gateway.folder / "shared/models", {f"file{n}": bytes(100) for n in range(40)})
        (gateway.folder / "shared/models/deep/er").mkdir(parents=True)
        (gateway.folder / "shared/models/deep/er/up").symlink_to("../../file1")
        (gateway.folder / "shared/models/deep/er/round").symlink_to("..")
        (gateway.folder / "shared/models/out").symlink_to("/etc/passwd")
        yield gateway


@pytest.fixture
def mount(gateway: Gateway, tmp_path: Path) -> Iterator[Path]:
    with gateway.mounted(tmp_path / "mnt", "/home/gvpocr", "reconnect") as mount:
        yield mount


# ssh and sshfs


def ssh_options(gateway: Gateway, folder: Path, how: str) -> tuple[list[str], int]:
    """ssh options and port that provoke this message."""
    key, known, port = gateway.key, gateway.known_hosts, gateway.port
    match how:
        case "unknown host":
            (known := folder / "known").touch()
        case "changed host":
            known = folder / "known"
            other = public_line(make_key(folder / "other", "ed25519"))
            known.write_text(f"[127.0.0.1]:{port} {other}\n")
        case "wrong key":
            key = make_key(folder / "wrong", "ed25519")
        case "open key":
            key = Path(shutil.copy(key, folder / "open"))
            key.chmod(0o644)
        case "closed":
            port = free_port()
    return gateway.ssh_options(
        IdentityFile=str(key), UserKnownHostsFile=str(known), ConnectTimeout="2"
    ), port


@pytest.mark.parametrize(
    ("how", "messages"),
    [
        ("unknown host", ("Host key verification failed.",)),
        (
            "changed host",
            ("WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!", "Host key verification failed."),
        ),
        ("wrong key", ("Permission denied (publickey).",)),
        (
            "open key",
            ("WARNING: UNPROTECTED PRIVATE KEY FILE!", "Permission denied (publickey)."),
        ),
        ("closed", ("Connection refused",)),
        ("firewall", ("Connection timed out",)),
    ],
)
def test_failed_logins_print_the_documented_messages_that_sshfs_hides(
    gateway: Gateway, tmp_path: Path, how: str, messages: tuple[str, ...]
) -> None:
    options, port = ssh_options(gateway, tmp_path, how)
    given = " ".join(options)
    (tmp_path / "mnt").mkdir()

    def look(port: int) -> None:
        output = shell(f'ssh {given} -p {port} gvpocr@127.0.0.1 "echo in"')
        hidden = shell(
            f"sshfs {given} -p {port} gvpocr@127.0.0.1: {tmp_path}/mnt".replace("-F none", "")
        )
        for message in messages:
            assert documented(message) in output
        # Which of the two is printed depends on timing.
        assert hidden in (
            documented("read: Connection reset by peer") + "\n",
            "write: Broken pipe\n",
        )

    if how == "firewall":
        with silent_port() as silent:
            look(silent)
    else:
        look(port)


def test_a_shell_request_prints_the_documented_message(gateway: Gateway) -> None:
    assert documented("sftp-gateway: only SFTP is served here") in gateway.ssh().stderr


def test_a_missing_path_prints_the_documented_message(gateway: Gateway, tmp_path: Path) -> None:
    options, port = ssh_options(gateway, tmp_path, "")
    given = " ".join(options).replace("-F none", "")
    (tmp_path / "mnt").mkdir()
    output = shell(f"sshfs {given} -p {port} gvpocr@127.0.0.1:/home/gvpocr/no {tmp_path}/mnt")
    assert output.endswith(f": {documented('No such file or directory')}\n")


def test_a_mount_without_user_allow_other_prints_the_documented_message(
    gateway: Gateway, reachable: Path
) -> None:
    """Run in a namespace where every user may use FUSE, as on most machines."""
    fuse, conf, mount = reachable / "fuse", reachable / "fuse.conf", reachable / "mnt"
    mount.mkdir()
    key = Path(shutil.copy(gateway.key, reachable / "key"))
    known = Path(shutil.copy(gateway.known_hosts, reachable / "known"))
    conf.write_text("#user_allow_other\n")
    for path in (key, mount):
        os.chown(path, 65534, 65534)
    output = shell(
        f"mknod {fuse} c 10 229; chmod 666 {fuse}; mount --bind {fuse} /dev/fuse;"
        f"mount --bind {conf} /etc/fuse.conf; {' '.join(NOBODY)} env HOME=/nonexistent sshfs"
        f" -p {gateway.port} gvpocr@127.0.0.1: {mount}"
        f" -o IdentityFile={key},UserKnownHostsFile={known},allow_other",
        "unshare", "--mount",
    )  # fmt: skip
    message = (
        "fusermount3: option allow_other only allowed if 'user_allow_other' is set in "
        "/etc/fuse.conf"
    )
    assert output == f"{documented(message)}\n"


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that every user can enter, on a file system with device files."""
    folder = Path(f"/tmp/symptoms-{os.getpid()}")
    folder.mkdir(mode=0o755)
    yield folder
    shutil.rmtree(folder)


# Mounts


def test_writing_links_and_too_many_files_give_the_documented_errors(
    gateway: Gateway, mount: Path
) -> None:
    models = mount / "models"
    assert shell(f"touch {models}/new").endswith(f": {documented('Permission denied')}\n")
    assert shell(f"cat {models}/out").endswith(": Permission denied\n")
    assert shell(f"cmp {models}/deep/er/up {models}/file1") == ""
    # sshfs's own error, as it contains links; the gateway would reply.
    assert shell(f"ls {models}/deep/er/round/").endswith(
        f": {documented('Operation not permitted')}\n"
    )
    opening = f"python3 -I -c 'kept = [open(f\"{models}/file{{n}}\") for n in range(20)]'"
    assert documented("Operation not permitted") in shell(opening)
    assert documented("Too many open files") in shell(f"ulimit -n 10; {opening}")


def test_a_mount_whose_sshfs_ended_gives_the_documented_error(mount: Path) -> None:
    os.kill(process_of(mount), signal.SIGKILL)
    message = documented("Transport endpoint is not connected")
    wait_for(lambda: shell(f"ls {mount}").endswith(f": {message}\n"), "the message")
    assert shell(f"fusermount3 -uz {mount}; ls {mount}") == ""


def test_a_mount_without_its_gateway_gives_the_documented_error(
    make_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    gateway = make_gateway(SFTP_GATEWAY_PORT=str(free_port())).start()
    with gateway.mounted(tmp_path / "mnt", "/home/gvpocr", "reconnect") as mount:
        gateway.stop()
        message = f": {documented('Input/output error')}\n"
        wait_for(lambda: shell(f"cat {mount}/models/README.txt").endswith(message), "the message")
        gateway.start()
        wait_for(lambda: shell(f"cat {mount}/models/README.txt").startswith("This"), "the mount")


# Other clients


@pytest.fixture(scope="module")
def restricted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with few ciphers that bans nobody."""
    config = 'ciphers = ["aes128-gcm@openssh.com", "aes256-ctr"]\n[penalties]\nenabled = false\n'
    with running(tmp_path_factory.mktemp("restricted"), config) as gateway:
        yield gateway


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("Ciphers=aes128-ctr", "no matching cipher found"),
        ("MACs=hmac-sha2-256", "no matching MAC found"),
        ("KexAlgorithms=diffie-hellman-group14-sha256", "no matching key exchange method found"),
        ("HostKeyAlgorithms=rsa-sha2-512", "no matching host key type found"),
    ],
)
def test_no_common_algorithm_prints_the_documented_message(
    restricted: Gateway, option: str, message: str
) -> None:
    # The one of the two ciphers that needs a MAC.
    options = [*restricted.ssh_options(), f"-o{option}", "-oCiphers=aes256-ctr"]
    assert documented(message) in restricted.ssh("echo in", options=options).stderr


@pytest.mark.parametrize(
    ("client", "message"),
    [
        ("paramiko 2.12", "Incompatible ssh server (no acceptable ciphers)"),
        ("paramiko 3.4", "Incompatible ssh server (no acceptable ciphers)"),
        ("curl 7.88, libssh2 1.10", "Unable to exchange encryption keys"),
    ],
)
def test_old_clients_without_a_cipher_print_the_documented_messages(
    make_gateway: Callable[..., Gateway], tmp_path: Path, client: str, message: str
) -> None:
    gateway = make_gateway('ciphers = ["aes128-gcm@openssh.com"]\n').start()
    with pytest.raises(Failed, match=re.escape(documented(message))):
        CLIENTS[client](gateway, tmp_path).list("/home/gvpocr/models")
    failed = gateway.wait_event("negotiation_failed", algorithm="cipher")
    assert failed["remedy"] == 'ciphers = "compatible"'


@pytest.fixture(scope="module")
def with_rsa_key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with an RSA worker key."""
    gateway = Gateway(tmp_path_factory.mktemp("rsa"))
    gateway.key.parent.mkdir()
    key = make_key(gateway.key, "rsa", 3072)
    gateway.authorize("gvpocr", public_line(key))
    try:
        yield gateway.start()
    finally:
        gateway.close()


@pytest.mark.parametrize("client", ["paramiko 2.12", "rclone 1.60", "psftp 0.78"])
def test_old_clients_can_log_in_with_an_rsa_key(
    with_rsa_key: Gateway, tmp_path: Path, client: str
) -> None:
    assert "models" in CLIENTS[client](with_rsa_key, tmp_path).list("/home/gvpocr")


def test_curl_signing_with_sha_1_prints_the_documented_message(
    with_rsa_key: Gateway, tmp_path: Path
) -> None:
    message = documented("curl: (67) Authentication failure")
    with pytest.raises(Failed, match=re.escape(message)):
        CLIENTS["curl 7.88, libssh2 1.10"](with_rsa_key, tmp_path).list("/home/gvpocr")
    assert with_rsa_key.wait_event("login_refused")["reason"] == "signature_algorithm"


def test_paramiko_with_too_many_open_files_raises_the_documented_error(gateway: Gateway) -> None:
    with paramiko.SSHClient() as client:
        client.load_host_keys(str(gateway.known_hosts))
        client.connect(
            "127.0.0.1", gateway.port, "gvpocr", key_filename=str(gateway.key),
            look_for_keys=False, allow_agent=False,
        )  # fmt: skip
        with client.open_sftp() as sftp, contextlib.ExitStack() as opened:
            for number in range(16):
                opened.enter_context(sftp.open(f"models/file{number}"))
            with pytest.raises(OSError, match=f"^{documented('Too many open handles')}$"):
                sftp.open("models/file16")


@pytest.mark.parametrize("client", ["rclone 1.60", "rclone 1.75"])
def test_rclone_with_an_unsupported_hash_prints_the_documented_message(
    gateway: Gateway, tmp_path: Path, client: str
) -> None:
    rclone = CLIENTS[client](gateway, tmp_path)
    assert isinstance(rclone, Rclone)
    message = documented("hash unsupported: hash type not supported")
    with pytest.raises(Failed, match=message):
        rclone.run_rclone("hashsum", "whirlpool", ":sftp:models/file1")


def test_rm_of_a_read_only_copy_prints_the_documented_message(
    gateway: Gateway, mount: Path, reachable: Path
) -> None:
    served = gateway.folder / "shared/models/kept"
    fill(served, {"folder/file": b"kept"})
    (served / "folder/file").chmod(0o444)
    (served / "folder").chmod(0o555)
    os.chown(reachable, 65534, 65534)
    output = shell(
        f"cp -r --no-preserve=ownership {mount}/models/kept/folder {reachable}/copy;"
        f"chown -R 65534:65534 {reachable}/copy; {' '.join(NOBODY)} rm -rf {reachable}/copy"
    )
    assert output == f"rm: cannot remove '{reachable}/copy/file': Permission denied\n"
    assert "| `rm: cannot remove` ... `Permission denied`, in a copy" in PAGE
    repair = f"chmod -R u+w {reachable}/copy && rm -r {reachable}/copy"
    assert shell(f"{' '.join(NOBODY)} sh -c '{repair}'") == ""


# Refused connections

#: Which of them is printed depends on timing.
DOOR = (
    "kex_exchange_identification: Connection closed by remote host",
    "kex_exchange_identification: read: Connection reset by peer",
)


def is_refused_at_the_door(gateway: Gateway) -> bool:
    output = gateway.ssh("echo in").stderr
    return any(documented(message) in output for message in DOOR)


def test_a_banned_source_gets_no_reason_until_it_is_exempt(
    make_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    penalties = "[penalties]\nfailed_login = 20\nexempt = [{}]\n"
    gateway = make_gateway(penalties.format("")).start()
    wrong = make_key(tmp_path / "wrong", "ed25519")
    while not gateway.events("source_banned"):
        gateway.ssh("echo in", options=gateway.ssh_options(key=wrong))
    assert is_refused_at_the_door(gateway)
    refused = gateway.wait_event("connections_refused")
    assert f"`{refused['reason']}`" in PAGE
    config = gateway.folder / "config/sftp-gateway.toml"
    config.write_text(penalties.format('"127.0.0.1/32"'))
    wait_for(lambda: gateway.ssh("echo in").stdout == "in\n", "the ban to be lifted")


def test_a_full_server_gives_no_reason_but_logs_it(
    make_gateway: Callable[..., Gateway],
) -> None:
    gateway = make_gateway("max_connections = 1\n").start()
    with socket.create_connection(("127.0.0.1", gateway.port)) as held:
        assert held.recv(4) == b"SSH-"
        assert is_refused_at_the_door(gateway)
    assert gateway.wait_event("connections_refused")["reason"] == "max_connections"
    assert "| `max_connections`" in PAGE
