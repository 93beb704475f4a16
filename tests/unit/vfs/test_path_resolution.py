"""Both resolvers find only what is below the root, and agree on the error otherwise."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sftp_gateway.vfs import path_resolution
from sftp_gateway.vfs.path_resolution import (
    ManualResolver,
    Openat2Resolver,
    PathResolver,
    choose_resolver,
    reopen,
)
from tests.unit.vfs.helpers import SECRET, descriptors, without_blocking


@pytest.fixture
def root_fd(root: Path) -> Iterator[int]:
    """A descriptor of the root that confines resolution."""
    descriptor = os.open(root, os.O_PATH | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def identity(
    resolver: PathResolver, root_fd: int, path: bytes, *, follow: bool = True, wait: bool = True
) -> tuple[int, int]:
    """The device and inode number of the file found."""
    pinned = resolver.resolve(root_fd, path, follow=follow, wait=wait)
    try:
        found = os.fstat(pinned)
        return found.st_dev, found.st_ino
    finally:
        os.close(pinned)


def real(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino


def errno_name(resolver: PathResolver, root_fd: int, path: bytes, *, follow: bool = True) -> str:
    """The name of the errno raised when resolving `path`."""
    with pytest.raises(OSError) as raised:  # noqa: PT011 - the errno is checked
        identity(resolver, root_fd, path, follow=follow)
    return errno.errorcode[raised.value.errno or 0]


@pytest.mark.parametrize("path", [b"", b".", b"./", b"folder/..", b"./folder/../."])
def test_the_root_itself_is_found(
    resolver: PathResolver, root_fd: int, root: Path, path: bytes
) -> None:
    assert identity(resolver, root_fd, path) == real(root)


@pytest.mark.parametrize(
    "path",
    [b"folder/inner", b"folder//inner", b"./folder/./inner", b"folder/../folder/inner"],
)
def test_dots_and_repeated_slashes_are_ignored(
    resolver: PathResolver, root_fd: int, root: Path, path: bytes
) -> None:
    assert identity(resolver, root_fd, path) == real(root / "folder" / "inner")


def test_a_final_link_is_followed_only_on_request(
    resolver: PathResolver, root_fd: int, root: Path
) -> None:
    (root / "link").symlink_to("folder/inner")
    assert identity(resolver, root_fd, b"link", follow=True) == real(root / "folder" / "inner")
    assert identity(resolver, root_fd, b"link", follow=False) == real(root / "link")


@pytest.mark.parametrize("path", [b"link/", b"link/.", b"link/../folder", b"chain/"])
def test_an_intermediate_link_is_always_followed(
    resolver: PathResolver, root_fd: int, root: Path, path: bytes
) -> None:
    (root / "link").symlink_to("folder")
    (root / "chain").symlink_to("link")
    assert identity(resolver, root_fd, path, follow=False) == real(root / "folder")


def test_dot_dot_after_a_linked_folder_is_the_real_folders_parent(
    resolver: PathResolver, root_fd: int, root: Path
) -> None:
    (root / "folder" / "deep").mkdir()
    (root / "link").symlink_to("folder/deep")
    assert identity(resolver, root_fd, b"link/../inner") == real(root / "folder" / "inner")


def test_a_link_may_climb_within_the_root(resolver: PathResolver, root_fd: int, root: Path) -> None:
    (root / "folder" / "up").symlink_to("../folder/../file")
    assert identity(resolver, root_fd, b"folder/up") == real(root / "file")


def test_a_link_to_the_root_itself_is_found(
    resolver: PathResolver, root_fd: int, root: Path
) -> None:
    (root / "folder" / "top").symlink_to("..")
    (root / "here").symlink_to(".")
    assert identity(resolver, root_fd, b"folder/top/folder/top/here/here") == real(root)


@pytest.mark.parametrize("path", [b"missing", b"missing/..", b"folder/missing/../inner", b"dead"])
def test_dot_dot_after_a_missing_folder_is_not_found(
    resolver: PathResolver, root_fd: int, root: Path, path: bytes
) -> None:
    (root / "dead").symlink_to("missing")
    assert errno_name(resolver, root_fd, path) == "ENOENT"


@pytest.mark.parametrize("path", [b"file/", b"file/.", b"file/..", b"file/x", b"as_folder"])
def test_a_file_is_not_a_folder(
    resolver: PathResolver, root_fd: int, root: Path, path: bytes
) -> None:
    (root / "as_folder").symlink_to("file/")
    assert errno_name(resolver, root_fd, path) == "ENOTDIR"


@pytest.mark.parametrize(
    "path",
    [
        b"..",
        b"../",
        b"../outside/secret",
        b"../share/file",
        b"folder/../../outside/secret",
        b"./.././share",
        b"/".join([b".."] * 500),
    ],
)
def test_a_path_above_the_root_is_an_escape(
    resolver: PathResolver, root_fd: int, path: bytes
) -> None:
    assert errno_name(resolver, root_fd, path) == "EXDEV"


@pytest.mark.parametrize(
    "target",
    ["/", "//", "/etc/passwd", "/nonexistent", "/proc/self/root", "..", "../outside/secret"],
)
@pytest.mark.parametrize("behind", [b"", b"/", b"/secret", b"/.."])
def test_an_escaping_link_is_an_escape_with_any_suffix(
    resolver: PathResolver, root_fd: int, root: Path, target: str, behind: bytes
) -> None:
    (root / "link").symlink_to(target)
    assert errno_name(resolver, root_fd, b"link" + behind) == "EXDEV"


def test_forty_links_are_followed_and_one_more_is_a_loop(
    resolver: PathResolver, root_fd: int, root: Path
) -> None:
    (root / "1").symlink_to("file")
    for number in range(2, 42):
        (root / str(number)).symlink_to(str(number - 1))
    assert identity(resolver, root_fd, b"40") == real(root / "file")
    assert errno_name(resolver, root_fd, b"41") == "ELOOP"


def test_forty_links_are_the_limit_of_the_whole_path(
    resolver: PathResolver, root_fd: int, root: Path
) -> None:
    (root / "here").symlink_to(".")
    assert identity(resolver, root_fd, b"here/" * 40 + b"file") == real(root / "file")
    assert errno_name(resolver, root_fd, b"here/" * 41 + b"file") == "ELOOP"


def test_a_loop_of_links_ends(resolver: PathResolver, root_fd: int, root: Path) -> None:
    (root / "self").symlink_to("self")
    (root / "one").symlink_to("two")
    (root / "two").symlink_to("folder/../one")
    for path in (b"self", b"self/x", b"one", b"two/..", b"one/"):
        assert errno_name(resolver, root_fd, path) == "ELOOP"


@pytest.mark.parametrize("length", [256, 5_000])
def test_an_overlong_name_is_rejected(resolver: PathResolver, root_fd: int, length: int) -> None:
    assert errno_name(resolver, root_fd, b"n" * length) == "ENAMETOOLONG"


def test_a_path_has_at_most_4095_bytes(resolver: PathResolver, root_fd: int, root: Path) -> None:
    longest = b"./" * 2045 + b"/file"
    assert len(longest) == 4095
    assert identity(resolver, root_fd, longest) == real(root / "file")
    assert errno_name(resolver, root_fd, b"/".join([b".", longest])) == "ENAMETOOLONG"
    assert errno_name(resolver, root_fd, b"./" * 50_000 + b"file") == "ENAMETOOLONG"
    assert errno_name(resolver, root_fd, b"folder/../" * 10_000 + b"file") == "ENAMETOOLONG"


def test_names_are_bytes(resolver: PathResolver, root_fd: int, root: Path) -> None:
    name = b"\xff\xfe caf\xe9\n"
    with open(os.fsencode(root) + b"/" + name, "wb"):
        pass
    os.symlink(name, os.fsencode(root) + b"/\x80link")
    assert identity(resolver, root_fd, b"\x80link") == identity(resolver, root_fd, name)


@pytest.mark.parametrize(
    "path", [b"root/etc/passwd", b"self/root/etc", b"self/cwd", b"self/exe", b"thread-self/root"]
)
def test_magic_links_are_never_followed(resolver: PathResolver, path: bytes) -> None:
    root_fd = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
    try:
        assert errno_name(resolver, root_fd, path) in {"ELOOP", "EXDEV", "ENOENT"}
    finally:
        os.close(root_fd)


def test_a_magic_link_to_an_open_descriptor_is_never_followed(
    resolver: PathResolver, outside: Path
) -> None:
    root_fd = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
    reading, writing = os.pipe()
    file = os.open(outside / "secret", os.O_RDONLY)
    folder = os.open(outside, os.O_RDONLY)
    try:
        for path in (b"%d" % reading, b"%d" % file, b"%d" % folder, b"%d/secret" % folder):
            assert errno_name(resolver, root_fd, b"self/fd/" + path) in {"ELOOP", "EXDEV", "ENOENT"}
    finally:
        for descriptor in (root_fd, reading, writing, file, folder):
            os.close(descriptor)


def test_a_found_file_is_pinned_but_not_opened(resolver: PathResolver, root_fd: int) -> None:
    pinned = resolver.resolve(root_fd, b"file", follow=True, wait=True)
    try:
        assert fcntl.fcntl(pinned, fcntl.F_GETFL) & os.O_PATH
        assert not os.get_inheritable(pinned)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.read(pinned, 1)
    finally:
        os.close(pinned)


def test_a_fifo_is_found_without_being_opened(
    resolver: PathResolver, root_fd: int, root: Path
) -> None:
    os.mkfifo(root / "fifo")
    found = without_blocking(lambda: identity(resolver, root_fd, b"fifo"))
    assert found == real(root / "fifo")


def test_resolution_leaks_no_descriptors(resolver: PathResolver, root_fd: int, root: Path) -> None:
    (root / "out").symlink_to("../outside")
    (root / "slash").symlink_to("/")
    (root / "loop").symlink_to("loop")
    (root / "in").symlink_to("folder")
    paths = (b"", b"in/inner", b"out", b"folder/../slash", b"loop", b"file/x", b"in/..", b"no/x")
    before = descriptors()
    for path in (*paths, b"folder/" + b"n" * 300, b"folder/../../x", b"./" * 4000):
        for follow in (False, True):
            for wait in (False, True):
                try:
                    identity(resolver, root_fd, path, follow=follow, wait=wait)
                except OSError:
                    continue
    assert descriptors() == before


def test_openat2_answers_cached_lookups_without_waiting(tmpfs: Path) -> None:
    (tmpfs / "folder").mkdir()
    (tmpfs / "folder" / "file").touch()
    root_fd = os.open(tmpfs, os.O_PATH | os.O_DIRECTORY)
    try:
        assert identity(Openat2Resolver(), root_fd, b"folder/file", wait=False) == real(
            tmpfs / "folder" / "file"
        )
    finally:
        os.close(root_fd)


@pytest.mark.parametrize("path", [b"..", b"link", b"link/x"])
def test_a_non_waiting_call_defers_an_escape(
    resolver: PathResolver, root_fd: int, root: Path, path: bytes
) -> None:
    (root / "link").symlink_to("/etc")
    with pytest.raises(BlockingIOError):
        identity(resolver, root_fd, path, wait=False)


def test_a_non_waiting_call_defers_another_mount(resolver: PathResolver, tmpfs: Path) -> None:
    path = b"shm/" + os.fsencode(tmpfs.name)
    root_fd = os.open("/dev", os.O_PATH | os.O_DIRECTORY)
    try:
        with pytest.raises(BlockingIOError):
            identity(resolver, root_fd, path, wait=False)
        assert identity(resolver, root_fd, path) == real(tmpfs)
    finally:
        os.close(root_fd)


def test_the_manual_resolver_holds_few_descriptors_at_any_depth(
    root_fd: int, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (deep := root.joinpath(*"d" * 100)).mkdir(parents=True)
    (deep / "near").symlink_to("../" * 20 + "d/d/file")
    (deep / "far").symlink_to("../" * 40 + "d")
    (deep / "out").symlink_to("../" * 200)
    root.joinpath(*"d" * 82, "file").touch()
    before, most = len(descriptors()), 0
    open_, walk = os.open, ManualResolver()

    def counted(*arguments: Any, **options: Any) -> int:
        nonlocal most
        descriptor = open_(*arguments, **options)
        most = max(most, len(descriptors()) - before)
        return descriptor

    monkeypatch.setattr(os, "open", counted)
    path = b"d/" * 100
    assert identity(walk, root_fd, path + b"near") == real(root.joinpath(*"d" * 82, "file"))
    assert most == walk.descriptors
    for name in (b"far", b"out"):
        assert errno_name(walk, root_fd, path + name) == "ELOOP"
    assert len(descriptors()) == before


def test_the_manual_resolver_never_answers_a_non_waiting_call(root_fd: int) -> None:
    with pytest.raises(BlockingIOError):
        identity(ManualResolver(), root_fd, b"file", wait=False)


def test_without_resolve_cached_every_lookup_waits(
    root_fd: int, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux 5.6 to 5.11 have openat2 but reject the flag with EINVAL."""
    monkeypatch.setattr(path_resolution, "_CONFINED_CACHED", path_resolution._CONFINED | 1 << 40)
    resolver = Openat2Resolver()
    with pytest.raises(BlockingIOError):
        identity(resolver, root_fd, b"file", wait=False)
    assert identity(resolver, root_fd, b"file") == real(root / "file")


def test_openat2_is_used_if_the_kernel_has_it() -> None:
    assert isinstance(choose_resolver(), Openat2Resolver)


#: Installs a seccomp filter that refuses system call 437, openat2, with the errno argv[1].
_REFUSE_OPENAT2 = """
import ctypes, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
code = [(0x20, 0, 0, 0), (0x15, 0, 1, 437),
        (0x06, 0, 0, 0x00050000 | int(sys.argv[1])), (0x06, 0, 0, 0x7FFF0000)]
program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
address = ctypes.addressof(program)
header = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(code), address))
zero = ctypes.c_ulong(0)
assert libc.prctl(38, ctypes.c_ulong(1), zero, zero, zero) == 0
assert libc.prctl(22, ctypes.c_ulong(2), header, zero, zero) == 0
from sftp_gateway.vfs.path_resolution import choose_resolver
print(type(choose_resolver()).__name__)
"""


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS])
def test_the_manual_resolver_is_used_if_openat2_is_refused(code: int) -> None:
    completed = subprocess.run(
        [sys.executable, "-c", _REFUSE_OPENAT2, str(code)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert completed.stdout == "ManualResolver\n"


def test_reopen_opens_the_same_file(
    resolver: PathResolver, root_fd: int, root: Path, outside: Path
) -> None:
    pinned = resolver.resolve(root_fd, b"file", follow=True, wait=True)
    (root / "file").rename(root / "moved")
    (root / "file").symlink_to(outside / "secret")
    descriptor = reopen(pinned, os.O_RDONLY)
    try:
        content = os.read(descriptor, 100)
        assert content == b"content" != SECRET
        assert not os.get_inheritable(descriptor)
    finally:
        os.close(descriptor)
        os.close(pinned)
