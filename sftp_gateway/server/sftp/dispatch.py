"""Request -> file tree -> response: what each request means for the user's tree."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

from sftp_gateway import errors
from sftp_gateway.protocol.attributes import longname
from sftp_gateway.protocol.constants import (
    MAX_IDS,
    MAX_NAME_LENGTH,
    STATVFS_NOSUID,
    STATVFS_RDONLY,
    WRITING_FLAGS,
    OpenFlags,
    StatusCode,
)
from sftp_gateway.protocol.requests import (
    CheckFileRequest,
    CloseRequest,
    ExpandPathRequest,
    FstatRequest,
    FstatvfsRequest,
    HomeDirectoryRequest,
    LimitsRequest,
    LstatRequest,
    OpendirRequest,
    OpenRequest,
    PathRequest,
    ReaddirRequest,
    ReadlinkRequest,
    RealpathRequest,
    Request,
    StatRequest,
    StatvfsRequest,
    UnknownRequest,
    UsersGroupsByIdRequest,
    WritingRequest,
)
from sftp_gateway.protocol.responses import (
    AttrsResponse,
    HandleResponse,
    LimitsResponse,
    NameResponse,
    Response,
    StatusResponse,
    StatvfsResponse,
    UsersGroupsByIdResponse,
    name_entry,
)
from sftp_gateway.server.handles import DirectoryHandle, FileHandle
from sftp_gateway.server.limits.quotas import cost_of_file, cost_of_folder
from sftp_gateway.server.sftp.context import SessionContext
from sftp_gateway.server.sftp.operations import Operation
from sftp_gateway.server.sftp.owners import Owners
from sftp_gateway.vfs.attributes import Attributes
from sftp_gateway.vfs.blocking import would_block
from sftp_gateway.vfs.files import OpenDirectory, OpenFile
from sftp_gateway.vfs.share import Share
from sftp_gateway.vfs.tree import ResolvedPath

T = TypeVar("T")


class Dispatcher:
    """Turns the requests of one session into operations on the user's tree."""

    def __init__(self, context: SessionContext) -> None:
        self._context = context
        self._tree = context.tree
        self._handles = context.handles
        #: OpenSSH's `sftp` and `scp` ask for limits before anything else; sshfs never does.
        self._in_order = False
        self._plans: dict[type[Request], Callable[[Any], Operation]] = {
            OpenRequest: self._open,
            CloseRequest: self._close,
            LstatRequest: partial(self._attributes, follow=False),
            StatRequest: partial(self._attributes, follow=True),
            FstatRequest: self._fstat,
            OpendirRequest: self._opendir,
            RealpathRequest: self._realpath,
            ReadlinkRequest: self._readlink,
            StatvfsRequest: self._statvfs,
            FstatvfsRequest: self._fstatvfs,
            LimitsRequest: self._limits,
            HomeDirectoryRequest: self._home_directory,
            ExpandPathRequest: self._expand_path,
            CheckFileRequest: self._check_file,
            UsersGroupsByIdRequest: self._users_groups_by_id,
            WritingRequest: self._refuse_writing,
            UnknownRequest: self._refuse_unknown,
        }

    def plan(self, request: Request) -> Operation:
        """The operation for any request but READ and READDIR.

        Raises FileSystemError if the request fails without looking at a disk.
        """
        return self._plans[type(request)](request)

    def locate(self, request: Request) -> tuple[Share | None, bytes | None]:
        """The share and path that `request` names, None if unknown; for the access log."""
        path = getattr(request, "path", None)
        if path is None:
            handle = getattr(request, "handle", None)
            try:
                opened = self._handles.get(handle) if handle is not None else None
            except errors.InvalidHandle:
                opened = None
            return (opened.share, opened.path) if opened else (None, None)
        try:
            resolved = self._tree.locate(path)
        except errors.FileSystemError:
            return None, path
        return resolved.share, resolved.path

    # Files

    def _open(self, request: OpenRequest) -> Operation:
        if request.pflags & WRITING_FLAGS:
            raise errors.Denied("read_only")
        resolved = self._tree.locate(request.path)
        share = resolved.share
        if share is None:
            raise errors.IsADirectory("a virtual directory")

        def run(wait: bool) -> OpenFile:
            cost = cost_of_file(resolved.path)
            return self._handles.open(cost, share.open_file, resolved.relative, wait=wait)

        def finish(file: Any) -> Response:
            opened = FileHandle(
                file=file,
                share=share,
                path=resolved.path,
                opened=time.monotonic(),
                known_size=file.size,
                in_order=self._in_order,
            )
            return self._enter(request, opened)

        return Operation(
            run=run,
            finish=finish,
            share=share,
            path=resolved.path,
            discard=lambda file: file.close(),
        )

    def _enter(self, request: Request, opened: FileHandle | DirectoryHandle) -> Response:
        handle = self._handles.add(opened)
        self._context.recorder.opened(opened)
        return HandleResponse(request.request_id, handle)

    def _close(self, request: CloseRequest) -> Operation:
        opened = self._handles.get(request.handle)

        def finish(_: Any) -> Response:
            self._context.close_handle(request.handle)
            return StatusResponse(request.request_id, StatusCode.OK, "Success")

        return Operation(run=lambda wait: None, finish=finish, share=opened.share, path=opened.path)

    def _check_file(self, request: CheckFileRequest) -> Operation:
        """The file whose checksum is asked for; `run` opens it if need be (checksums.py)."""
        if request.path is not None:
            return self._open(OpenRequest(request.request_id, request.path, OpenFlags.READ))
        opened = self._handles.file(request.handle or b"")
        return Operation(
            run=lambda wait: opened.file,
            finish=_no_response,
            share=opened.share,
            path=opened.path,
        )

    def _fstat(self, request: FstatRequest) -> Operation:
        opened = self._handles.get(request.handle)
        if isinstance(opened, DirectoryHandle):
            return self._attributes(StatRequest(request.request_id, opened.path), follow=True)
        file, share = opened.file, opened.share

        def finish(attributes: Any) -> Response:
            opened.known_size = attributes.size
            return AttrsResponse(request.request_id, attributes)

        return Operation(
            run=_on_file(file, lambda: share.show(file.stat())),
            finish=finish,
            share=share,
            path=opened.path,
        )

    # Names and attributes

    def _attributes(self, request: PathRequest, *, follow: bool) -> Operation:
        resolved = self._tree.locate(request.path)
        share = resolved.share
        if share is None:
            return _immediate(
                AttrsResponse(request.request_id, self._tree.attributes()), resolved.path
            )
        return Operation(
            run=partial(share.stat if follow else share.lstat, resolved.relative),
            finish=partial(AttrsResponse, request.request_id),
            share=share,
            path=resolved.path,
        )

    def _readlink(self, request: ReadlinkRequest) -> Operation:
        resolved = self._tree.locate(request.path)
        share = resolved.share
        if share is None:
            raise errors.NotALink("a virtual directory")
        return Operation(
            run=partial(share.readlink, resolved.relative),
            finish=lambda target: _one_name(request.request_id, target),
            share=share,
            path=resolved.path,
        )

    def _realpath(self, request: RealpathRequest) -> Operation:
        # §6.11: "This is useful for converting path names containing ".." components or relative
        # pathnames without a leading slash into absolute paths."
        return self._resolved(request.request_id, request.path)

    def _resolved(self, request_id: int, path: bytes) -> Operation:
        """Resolve links in `path`, as OpenSSH does: clients detect cycles by it.

        A path that is missing, hidden or outside the shares is only normalised.
        """
        text = self._tree.canonical(path)
        try:
            resolved = self._tree.locate(path)
        except errors.FileSystemError:
            return _immediate(_one_name(request_id, text))
        share = resolved.share
        if share is None or not resolved.relative:
            return _immediate(_one_name(request_id, text))

        def finish(relative: bytes | None) -> Response:
            known = None if relative is None else self._tree.path_of(share, relative)
            return _one_name(request_id, known or text)

        return Operation(
            run=partial(share.realpath, resolved.relative),
            finish=finish,
            share=share,
            path=resolved.path,
        )

    def _expand_path(self, request: ExpandPathRequest) -> Operation:
        path = request.path
        if path.startswith(b"~"):
            user, slash, rest = path[1:].partition(b"/")
            path = self._home_of(user) + slash + rest
        return self._resolved(request.request_id, path)

    def _home_directory(self, request: HomeDirectoryRequest) -> Operation:
        return _immediate(_one_name(request.request_id, self._home_of(request.username)))

    def _home_of(self, user: bytes) -> bytes:
        """The home directory of the session's user; raises NotFound for any other user."""
        if user not in (b"", self._tree.home.rpartition(b"/")[2]):
            raise errors.NotFound("another user's home")
        return self._tree.home

    # Folders

    def _opendir(self, request: OpendirRequest) -> Operation:
        resolved = self._tree.locate(request.path)

        def finish(directory: Any) -> Response:
            opened = DirectoryHandle(
                directory=directory,
                share=resolved.share,
                path=resolved.path,
                opened=time.monotonic(),
            )
            return self._enter(request, opened)

        return Operation(
            run=partial(self._open_directory, resolved),
            finish=finish,
            share=resolved.share,
            path=resolved.path,
            discard=lambda directory: directory.close(),
        )

    def _open_directory(self, resolved: ResolvedPath, *, wait: bool) -> OpenDirectory:
        children = tuple(self._tree.children_of(resolved.node)) if resolved.node else ()
        cost = cost_of_folder(resolved.path)
        if resolved.share is None:
            return self._handles.open(cost, self._tree.open_virtual, children)
        return self._handles.open(
            cost, resolved.share.open_directory, resolved.relative, extra=children, wait=wait
        )

    def readdir(self, request: ReaddirRequest, opened: DirectoryHandle) -> Operation:
        """The next names of `opened`; one operation of a directory at a time."""

        def run(wait: bool) -> _Page:
            if opened.broken:
                raise OSError(errno.EIO, "names of the folder were lost")
            if not wait and not opened.directory.buffered:
                # Each name needs an lstat(2), and nothing tells whether its inode is cached: a page
                # of a cold directory could take a second.
                raise would_block()
            try:
                return _page(opened.directory, self._context.owners)
            except OSError:
                opened.mark_broken()
                raise

        def finish(page: _Page) -> Response:
            if not page.entries:
                opened.complete = True
                return StatusResponse(request.request_id, StatusCode.EOF, "End of file")
            opened.entries += page.named
            return NameResponse(request.request_id, page.entries)

        return Operation(
            run=run, finish=finish, share=opened.share, path=opened.path, give_up=opened.mark_broken
        )

    # File systems and limits

    def _statvfs(self, request: StatvfsRequest) -> Operation:
        resolved = self._tree.locate(request.path)
        share = resolved.share
        if share is None:
            response = _statvfs(request.request_id, self._context.virtual_statvfs(self._tree))
            return _immediate(response, resolved.path)
        return Operation(
            run=partial(share.statvfs, resolved.relative),
            finish=partial(_statvfs, request.request_id),
            share=share,
            path=resolved.path,
        )

    def _fstatvfs(self, request: FstatvfsRequest) -> Operation:
        opened = self._handles.get(request.handle)
        if isinstance(opened, DirectoryHandle):
            return self._statvfs(StatvfsRequest(request.request_id, opened.path))
        return Operation(
            run=_on_file(opened.file, opened.file.statvfs),
            finish=partial(_statvfs, request.request_id),
            share=opened.share,
            path=opened.path,
        )

    def _limits(self, request: LimitsRequest) -> Operation:
        self._in_order = True
        return _immediate(LimitsResponse(request.request_id, self._handles.capacity))

    def _users_groups_by_id(self, request: UsersGroupsByIdRequest) -> Operation:
        if max(len(request.uids), len(request.gids)) > MAX_IDS:
            raise errors.FileSystemError(f"more than {MAX_IDS} ids")
        users, groups = self._context.owners.names(request.uids, request.gids)
        return _immediate(UsersGroupsByIdResponse(request.request_id, users, groups))

    # What is refused

    def _refuse_writing(self, _: WritingRequest) -> Operation:
        raise errors.Denied("read_only")

    def _refuse_unknown(self, request: UnknownRequest) -> Operation:
        raise errors.Unsupported(request.name)


def _on_file(file: OpenFile, ask: Callable[[], T]) -> Callable[[bool], T]:
    """Call `ask`, on the event loop only if the file system is local."""

    def run(wait: bool) -> T:
        if not wait and not file.local:
            raise would_block()
        return ask()

    return run


def _immediate(response: Response, path: bytes | None = None) -> Operation:
    return Operation(run=lambda wait: None, finish=lambda _: response, path=path)


def _no_response(_: Any) -> Response:
    raise AssertionError("the file is not what is answered")


def _one_name(request_id: int, name: bytes) -> NameResponse:
    return NameResponse(request_id, [name_entry(name, name, None)])


class _Page(NamedTuple):
    """Entries of one NAME response, and how many of them are not `.` and `..`."""

    entries: list[bytes]
    named: int


def _page(directory: OpenDirectory, owners: Owners) -> _Page:
    """As many entries as fit one NAME response; none at the end of the folder."""
    page: list[bytes] = []
    room, dots, now = MAX_NAME_LENGTH, 0, time.time()
    uid = gid = -1

    def take(name: bytes, attributes: Attributes) -> bool:
        nonlocal room, dots, uid, gid
        if attributes[1] != uid or attributes[2] != gid:
            _, uid, gid, _, _, _ = attributes
            owners.show(uid, gid)
        encoded = name_entry(name, longname(attributes, name, now), attributes)
        room -= len(encoded)
        if room < 0 and page:
            return False
        page.append(encoded)
        dots += name in (b".", b"..")
        return True

    directory.take_while(take)
    return _Page(page, len(page) - dots)


def _statvfs(request_id: int, result: os.statvfs_result | None) -> StatvfsResponse:
    flags = STATVFS_RDONLY | STATVFS_NOSUID
    if result is None:  # no share has been looked at yet; an error would break the mount
        return StatvfsResponse(request_id, 4096, 4096, 0, 0, 0, 0, 0, 0, 0, flags, 255)
    return StatvfsResponse(
        request_id,
        result.f_bsize,
        result.f_frsize,
        result.f_blocks,
        result.f_bfree,
        result.f_bavail,
        result.f_files,
        result.f_ffree,
        result.f_favail,
        result.f_fsid,
        flags,
        result.f_namemax,
    )
