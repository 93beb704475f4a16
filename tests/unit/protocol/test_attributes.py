"""The ATTRS structure on the wire, and the line that `sftp` prints for a file."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import time
from datetime import UTC, datetime
from itertools import chain, combinations

import pytest

from sftp_gateway.errors import ProtocolError
from sftp_gateway.protocol import attributes as protocol
from sftp_gateway.protocol.attributes import encode_attributes, longname, skip_attributes
from sftp_gateway.protocol.wire import Cursor
from sftp_gateway.vfs.attributes import Attributes
from tests.support.sftp_wire import Attrs, encode_attrs

HALF_A_YEAR = 365 * 24 * 3600 // 2


def attributes(**changed: int) -> Attributes:
    """The draft's example, with numeric ids for its names."""
    fields = {
        "size": 348911,
        "uid": 1000,
        "gid": 50,
        "mode": stat.S_IFREG | 0o755,
        "atime": 0,
        "mtime": int(datetime(2001, 3, 25, 14, 29, 59, tzinfo=UTC).timestamp()),
    }
    return Attributes(**fields | changed)


def line_of(filename: bytes = b"t-filexfer", *, age: float = 3600, **changed: int) -> str:
    file = attributes(**changed)
    return longname(file, filename, file.mtime + age).decode()


# On the wire


def test_all_attributes_are_sent():
    file = Attributes(
        size=2**32 + 5, uid=1000, gid=1001, mode=0o100644, atime=0x5F5E1000, mtime=0x5F5E1001
    )
    assert encode_attributes(file) == bytes.fromhex(
        "0000000f"  # size, uid and gid, permissions, times
        "0000000100000005"  # size
        "000003e8 000003e9"  # uid, gid
        "000081a4"  # permissions: a plain file, 0644
        "5f5e1000 5f5e1001"  # atime, mtime
    )


@pytest.mark.parametrize(
    ("seconds", "sent"),
    [
        (-1, "00000000"),
        (0, "00000000"),
        (2**31, "80000000"),  # in 2038
        (2**32 - 1, "ffffffff"),
        (2**32, "ffffffff"),  # in 2106
        (10**15, "ffffffff"),
    ],
)
def test_times_that_the_field_cannot_hold_are_clamped(seconds, sent):
    assert encode_attributes(attributes(atime=seconds))[-8:-4] == bytes.fromhex(sent)
    assert encode_attributes(attributes(mtime=seconds))[-4:] == bytes.fromhex(sent)


def test_the_owner_minus_one_is_sent_as_the_largest_id():
    assert encode_attributes(attributes(uid=-1, gid=-1))[12:20] == b"\xff" * 8
    assert line_of(uid=-1, gid=-1).split()[2:4] == ["4294967295", "4294967295"]


FIELDS = {
    "size": {"size": 1},
    "owner": {"uid": 2, "gid": 3},
    "permissions": {"permissions": 4},
    "times": {"atime": 5, "mtime": 6},
    "extended": {"extended": ((b"a@example.org", b"1"), (b"", b""))},
}
SUBSETS = list(chain.from_iterable(combinations(FIELDS, size) for size in range(len(FIELDS) + 1)))


@pytest.mark.parametrize("present", SUBSETS, ids=lambda present: "+".join(present) or "nothing")
def test_any_attributes_from_a_client_are_skipped(present):
    fields = {name: value for part in present for name, value in FIELDS[part].items()}
    encoded = encode_attrs(Attrs(**fields))
    cursor = Cursor(encoded + b"\x2a")
    skip_attributes(cursor)
    assert cursor.byte() == 42
    for length in range(len(encoded)):
        with pytest.raises(ProtocolError):
            skip_attributes(Cursor(encoded[:length]))


def test_unknown_attribute_flags_have_no_field():
    cursor = Cursor(bytes.fromhex("7ffffff0 2a"))
    skip_attributes(cursor)
    assert cursor.byte() == 42


# The line of `ls -l`


def test_the_longname_has_the_columns_of_the_draft():
    # draft-ietf-secsh-filexfer-02 §7: the second line "indicates widths of the various fields".
    assert line_of() == "-rwxr-xr-x   1 1000     50         348911 Mar 25 14:29 t-filexfer"
    #                    "1234567890 123 12345678 12345678 12345678 123456789012"


def test_columns_are_aligned():
    line = line_of(b"x" * 255)
    widths = (10, 3, 8, 8, 8, 12)
    columns = []
    for width in widths:
        columns.append(line[:width])
        assert line[width] == " "
        line = line[width + 1 :]
    assert columns == ["-rwxr-xr-x", "  1", "1000    ", "50      ", "  348911", "Mar 25 14:29"]
    assert line == "x" * 255


def test_a_column_widens_for_a_long_value():
    line = line_of(size=2**63 - 1, uid=2**32 - 1, gid=123456789)
    assert line.split()[2:5] == ["4294967295", "123456789", "9223372036854775807"]


def test_the_day_of_the_month_has_two_columns():
    first = int(datetime(2001, 4, 1, 9, 5, tzinfo=UTC).timestamp())
    assert line_of(mtime=first).endswith(" Apr  1 09:05 t-filexfer")


@pytest.mark.parametrize(
    ("age", "stamp"),
    [
        (0, "Mar 25 14:29"),
        (HALF_A_YEAR - 1, "Mar 25 14:29"),
        (HALF_A_YEAR, "Mar 25  2001"),
        (10**9, "Mar 25  2001"),
        (-1, "Mar 25  2001"),  # in the future
    ],
)
def test_times_older_than_half_a_year_show_the_year(age, stamp):
    assert line_of(age=age).endswith(f" {stamp} t-filexfer")


@pytest.mark.parametrize(
    ("mtime", "stamp"), [(-(10**12), "Jan  1  1970"), (10**15, "Feb  7  2106")]
)
def test_an_unencodable_time_shows_the_clamped_one(mtime, stamp):
    assert longname(attributes(mtime=mtime), b"f", now=10**9).endswith(b" %s f" % stamp.encode())


@pytest.mark.parametrize(
    ("permissions", "shown"),
    [
        (stat.S_IFREG | 0o444, "-r--r--r--"),
        (stat.S_IFDIR | 0o555, "dr-xr-xr-x"),
        (stat.S_IFLNK | 0o777, "lrwxrwxrwx"),
        (stat.S_IFIFO | 0o600, "prw-------"),
        (stat.S_IFSOCK | 0o600, "srw-------"),
        (stat.S_IFBLK | 0o660, "brw-rw----"),
        (stat.S_IFCHR | 0o660, "crw-rw----"),
        (stat.S_IFREG | 0o7000, "---S--S--T"),
        (stat.S_IFDIR | 0o7777, "drwsrwsrwt"),
        (0, "?---------"),
    ],
)
def test_type_and_permissions_have_ten_columns(permissions, shown):
    assert line_of(mode=permissions).split(" ")[0] == shown


@pytest.mark.parametrize("filename", [b"two  words", b" ", b"\xff\xfe", "का".encode(), b"%d\n'"])
def test_the_longname_ends_with_the_exact_name(filename):
    line = longname(attributes(), filename, now=0)
    # A common parser of `ls -l` output.
    parsed = re.fullmatch(
        rb"(?P<mode>\S{10}) +(?P<links>\d+) (?P<owner>\S+) +(?P<group>\S+) +(?P<size>\d+)"
        rb" (?P<when>\S{3} [ \d]\d [ \d]\d[:\d]\d\d) (?P<name>.*)",
        line,
        re.DOTALL,
    )
    assert parsed is not None
    assert parsed["name"] == filename
    assert (parsed["owner"], parsed["group"], parsed["size"]) == (b"1000", b"50", b"348911")


#: Daylight saving time of an hour, of half an hour, and none.
ZONES = ["UTC0", "IST-5:30", "EST5EDT,M3.2.0,M11.1.0", "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0"]


@pytest.fixture(params=ZONES)
def zone(request, monkeypatch):
    """The server's time zone."""
    caches = (protocol._time_of_minute, protocol._date_of_day, protocol._offset_of_week)
    with monkeypatch.context() as patch:
        patch.setenv("TZ", request.param)
        time.tzset()
        for cache in caches:
            cache.cache_clear()
        yield request.param
    time.tzset()
    for cache in caches:
        cache.cache_clear()


def test_times_follow_the_servers_time_zone(zone):
    now = int(datetime(2026, 11, 26, tzinfo=UTC).timestamp())
    for mtime in range(now - 3 * 365 * 86400, now + 40 * 86400, 2 * 3600 + 60):
        shape = "%b %e %H:%M" if 0 <= now - mtime < HALF_A_YEAR else "%b %e  %Y"
        expected = time.strftime(shape, time.localtime(mtime))
        line = longname(attributes(mtime=mtime), b"f", now).decode()
        assert line.endswith(f" {expected} f"), mtime


@pytest.mark.parametrize("days", [1, 1000, -10], ids=["recent", "old", "future"])
def test_the_longname_parses_like_ls_output(tmp_path, days):
    now = time.time()
    path = tmp_path / "t-filexfer"
    path.write_bytes(bytes(12345))
    path.chmod(0o751)
    os.utime(path, (0, now - days * 24 * 3600))
    found = path.stat()
    file = Attributes(
        size=found.st_size,
        uid=found.st_uid,
        gid=found.st_gid,
        mode=found.st_mode,
        atime=int(found.st_atime),
        mtime=int(found.st_mtime),
    )
    printed = subprocess.run(
        ["ls", "-ln", path.name],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
        check=True,
        capture_output=True,
    )
    assert longname(file, b"t-filexfer", now).split() == printed.stdout.split()
