import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress

import pytest

from sftp_gateway.errors import ConfigurationError
from sftp_gateway.observability.access_log.sinks import FileSink, StreamSink, check_file


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    yield reader, writer
    for descriptor in (reader, writer):
        with suppress(OSError):
            os.close(descriptor)


def read_all(descriptor):
    with open(descriptor, "rb", closefd=False) as stream:
        return stream.read()


@contextmanager
def largest_file(size):
    """Limit files to `size` bytes, as on a nearly full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("blocking", [True, False])
def test_a_batch_larger_than_the_pipe_is_written_completely(pipe, blocking):
    reader, writer = pipe
    os.set_blocking(writer, blocking)
    lines = b"".join(b"%d\n" % number for number in range(100_000))
    received = []
    thread = threading.Thread(target=lambda: received.append(read_all(reader)))
    thread.start()
    StreamSink(writer).write(lines)
    os.close(writer)
    thread.join()
    assert received == [lines]


def test_a_broken_pipe_is_an_error_and_not_a_signal(pipe):
    reader, writer = pipe
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        StreamSink(writer).write(b"line\n")


def test_a_full_non_blocking_pipe_that_breaks_is_an_error(pipe):
    reader, writer = pipe
    os.set_blocking(writer, False)
    errors = []

    def write():
        try:
            StreamSink(writer).write(b"x" * 1_000_000)
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    os.read(reader, 1)
    os.close(reader)
    thread.join()
    assert isinstance(errors[0], BrokenPipeError)


def test_a_full_device_is_an_error():
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OSError, match="No space"):
        StreamSink(full.fileno()).write(b"line\n")


def test_closing_leaves_the_stream_open(pipe):
    reader, writer = pipe
    StreamSink(writer).close()
    os.write(writer, b"still open")
    assert os.read(reader, 100) == b"still open"


def test_long_lines_of_several_processes_are_not_interleaved(pipe):
    reader, writer = pipe
    program = (
        "import sys; from sftp_gateway.observability.access_log.sinks import StreamSink\n"
        "sink = StreamSink(1)\n"
        "for _ in range(40): sink.write((sys.argv[1] * 30_000 + '\\n').encode())"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program, letter], stdout=writer)
        for letter in "abcd"
    ]
    os.close(writer)
    lines = read_all(reader).splitlines()
    assert [process.wait() for process in processes] == [0, 0, 0, 0]
    assert sorted(lines) == sorted(letter * 30_000 for letter in (b"a", b"b", b"c", b"d") * 40)


def test_a_new_file_is_inaccessible_to_others(tmp_path):
    before = os.umask(0)
    try:
        FileSink(tmp_path / "access.log").close()
    finally:
        os.umask(before)
    assert (tmp_path / "access.log").stat().st_mode & 0o777 == 0o640


def test_an_existing_file_is_appended_to_and_keeps_its_mode(tmp_path):
    path = tmp_path / "access.log"
    path.write_bytes(b"old\n")
    path.chmod(0o600)
    sink = FileSink(path)
    sink.write(b"new\n")
    sink.close()
    assert path.read_bytes() == b"old\nnew\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_missing_folder_is_an_error_that_names_the_option(tmp_path):
    with pytest.raises(ConfigurationError) as raised:
        check_file(tmp_path / "logs" / "access.log")
    assert raised.value.errors == (
        f"access_log.file: cannot append to {tmp_path}/logs/access.log: the folder"
        f" {tmp_path}/logs does not exist; name a file in a folder that the gateway can write to",
    )


@pytest.fixture(params=["folder", "fifo", "read fifo", "socket", "device"])
def special(request, tmp_path):
    """A path that is not a regular file."""
    path = tmp_path / "special"
    if request.param == "folder":
        path.mkdir()
    elif request.param == "device":
        path.symlink_to("/dev/null")
    elif request.param == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    else:
        os.mkfifo(path)
    if request.param == "read fifo":
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        yield path
        os.close(reader)
    else:
        yield path


def test_a_log_other_than_a_regular_file_is_an_error(special):
    with pytest.raises(ConfigurationError, match="it is not a regular file"):
        check_file(special)


def test_a_file_replaced_by_a_special_file_is_written_with_a_warning(special, tmp_path, caplog):
    path = tmp_path / "access.log"
    sink = FileSink(path)
    sink.write(b"one\n")
    path.rename(tmp_path / "moved")
    path.symlink_to(special)
    for _ in range(2):
        sink.write(b"two\n")
    assert (tmp_path / "moved").read_bytes() == b"one\ntwo\ntwo\n"
    assert caplog.text.count("lines go to the file that was moved away") == 1
    path.unlink()
    sink.write(b"three\n")
    sink.close()
    assert path.read_bytes() == b"three\n"


def test_a_sink_without_a_folder_fails_until_it_exists(tmp_path):
    sink = FileSink(tmp_path / "logs/access.log")
    with pytest.raises(FileNotFoundError):
        sink.write(b"one\n")
    (tmp_path / "logs").mkdir()
    sink.write(b"two\n")
    sink.close()
    assert (tmp_path / "logs/access.log").read_bytes() == b"two\n"


def test_a_moved_file_is_recreated(tmp_path):
    path = tmp_path / "access.log"
    sink = FileSink(path)
    sink.write(b"one\n")
    path.rename(tmp_path / "access.log.1")
    sink.write(b"two\n")
    sink.close()
    assert (tmp_path / "access.log.1").read_bytes() == b"one\n"
    assert path.read_bytes() == b"two\n"


def test_a_file_rotated_by_logrotate_is_followed(tmp_path):
    path = tmp_path / "access.log"
    sink = FileSink(path)
    path.rename(tmp_path / "access.log.1")
    path.touch(mode=0o600)
    sink.write(b"two\n")
    sink.close()
    assert path.read_bytes() == b"two\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_deleted_file_is_recreated(tmp_path):
    path = tmp_path / "access.log"
    sink = FileSink(path)
    path.unlink()
    sink.write(b"two\n")
    sink.close()
    assert path.read_bytes() == b"two\n"


def test_a_truncated_file_is_written_from_its_start(tmp_path):
    path = tmp_path / "access.log"
    sink = FileSink(path)
    sink.write(b"one\n")
    os.truncate(path, 0)
    sink.write(b"two\n")
    sink.close()
    assert path.read_bytes() == b"two\n"


def test_rotations_leak_no_descriptors(tmp_path):
    path = tmp_path / "access.log"
    sink = FileSink(path)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(10):
        path.rename(tmp_path / f"access.log.{number}")
        sink.write(b"line\n")
    assert len(os.listdir("/proc/self/fd")) == before
    sink.close()


def test_lines_go_to_the_moved_file_until_a_new_one_can_be_created(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    sink = FileSink(folder / "access.log")
    folder.rename(tmp_path / "moved")
    sink.write(b"one\n")
    assert (tmp_path / "moved" / "access.log").read_bytes() == b"one\n"
    (tmp_path / "moved" / "access.log").unlink()
    with pytest.raises(FileNotFoundError):
        sink.write(b"two\n")
    folder.mkdir()
    sink.write(b"three\n")
    sink.close()
    assert (folder / "access.log").read_bytes() == b"three\n"


def test_a_line_truncated_by_a_full_disk_leaves_the_next_intact(tmp_path):
    path = tmp_path / "access.log"
    sink = FileSink(path)
    with largest_file(6):
        sink.write(b"one\n")
        with pytest.raises(OSError, match="File too large"):
            sink.write(b"second\n")
        with pytest.raises(OSError, match="File too large"):
            sink.write(b"third\n")
    sink.write(b"fourth\n")
    sink.write(b"fifth\n")
    sink.close()
    assert path.read_bytes() == b"one\nse\nfourth\nfifth\n"
