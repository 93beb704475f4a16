"""Commands are answered exactly as by a shell, or refused."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sftp_gateway.server.exec.command_line import (
    REFUSAL,
    Checksum,
    ScpSink,
    ScpSource,
    Text,
    Word,
    parse,
    split,
)

#: The shells on this machine; every machine has the first.
SHELLS = [shell for shell in ("sh", "bash", "dash") if shutil.which(shell)]


def answer(command: str) -> str | None:
    parsed = parse(command)
    return parsed.text if isinstance(parsed, Text) else None


@pytest.mark.parametrize(
    ("command", "printed"),
    [
        ("echo 'SSH connection successful'", "SSH connection successful\n"),
        ('echo "SSH connection successful"', "SSH connection successful\n"),
        ("echo SSH connection successful", "SSH connection successful\n"),
        ("echo", "\n"),
        ("  echo  ", "\n"),
        ("  echo   a    b  ", "a b\n"),
        ("echo ''", "\n"),
        ("echo '' a", " a\n"),
        ("echo a'b c'\"d  e\"f", "ab cd  ef\n"),
        ("echo 'say \"hi\"'", 'say "hi"\n'),
        ('echo "it\'s"', "it's\n"),
        ("echo '$HOME `id` ; | & > * ? ~ #'", "$HOME `id` ; | & > * ? ~ #\n"),
        ('echo "; | & > * ? ~ # {a,b}"', "; | & > * ? ~ # {a,b}\n"),
        ("echo a=b 50% x^y +1 1-2 e@f.g,h:i/j !", "a=b 50% x^y +1 1-2 e@f.g,h:i/j !\n"),
        ("echo a -n", "a -n\n"),
        ("echo नमस्ते", "नमस्ते\n"),
        ("echo ${ShellId}%ComSpec%", "%ComSpec%\n"),
        ("echo " + "x" * 4000, "x" * 4000 + "\n"),
    ],
)
def test_echo_of_words_is_answered(command: str, printed: str) -> None:
    assert answer(command) == printed


@pytest.mark.parametrize(
    "command",
    [
        "",
        " ",
        "echohi",
        "ECHO hi",
        "/bin/echo hi",
        "'echo' hi",
        "echo'hi'",
        "printf hi",
        "echo -n hi",
        "echo -e hi",
        "echo '-n' hi",
        'echo "-"n hi',
        "echo --help",
        "echo $HOME",
        'echo "$HOME"',
        'echo "`id`"',
        "echo `id`",
        "echo $(id)",
        "echo hi; id",
        "echo hi & id",
        "echo hi | id",
        "echo hi > file",
        "echo hi < file",
        "echo hi 2>&1",
        "echo (hi)",
        "echo {a,b}",
        "echo *",
        "echo ?",
        "echo [a]",
        "echo ~",
        "echo a ~root",
        "echo hi # there",
        "echo back\\slash",
        'echo "back\\slash"',
        "echo 'two\\nlines'",
        "echo 'unclosed",
        'echo "unclosed',
        "echo it's",
        "echo hi\nid",
        "echo hi\rid",
        "echo\thi",
        "echo 'tab\there'",
        "echo 'zero\0byte'",
        "echo 'escape\x1b[31m'",
        "echo 'bidi\u202eabc'",
        "echo 'separator\u2028abc'",
        "echo a\u00a0b",
        "echo " + "x" * 5000,
        " " * 5000 + "echo",
    ],
)
def test_other_commands_are_refused(command: str) -> None:
    assert parse(command) is None


def test_the_refusal_is_one_line() -> None:
    assert REFUSAL.count("\n") == 1
    assert REFUSAL.endswith("\n")
    assert REFUSAL.startswith("sftp-gateway: ")


#: Words, quotes and shell metacharacters in any order.
PARTS = st.sampled_from(
    [*"abc01 \"'$`\\;|&<>(){}[]*?~#!-=%^+@:,./_é\u0939", "  ", "''", '""', " -", "'a b'", '"c d"']
)
COMMANDS = st.lists(PARTS, max_size=12).map(lambda parts: "echo " + "".join(parts)) | st.text(
    st.characters(codec="utf-8", exclude_categories=("C",)), max_size=20
).map("echo ".__add__)


@settings(deadline=None, max_examples=400)
@given(COMMANDS)
@example("echo 'a\\nb'")
@example("echo '' -n")
@example('echo "a!b" !!')
@example("echo a=~")
@example("echo a= b=c:~")
@example("echo %1 ^a^b =ls")
def test_echo_prints_what_a_shell_prints(command: str) -> None:
    expected = answer(command)
    if expected is None:
        return
    for shell in SHELLS:
        ran = subprocess.run([shell, "-c", command], capture_output=True, timeout=30)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, expected.encode(), b"")


@given(st.text(max_size=40) | st.text(max_size=40).map("echo ".__add__))
def test_any_text_prints_one_line_or_is_refused(command: str) -> None:
    expected = answer(command)
    assert expected is None or (expected.count("\n") == 1 and expected.endswith("\n"))


# Words


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("", []),
        ("a  b\tc", [Word("a"), Word("b"), Word("c")]),
        ("a'b c'\"d \\\" \\e\"\\ f", [Word('ab cd " \\e f')]),
        ("'new\nline' '*'", [Word("new\nline"), Word("*")]),
        ("'' \"\"", [Word(""), Word("")]),
        ("*.pdf", [Word("*.pdf", "*.pdf")]),
        ("'a*'*\\[[^x]", [Word("a**[[^x]", "a[*]*[[][!x]")]),
        ("~", [Word("", home=True)]),
        ("~/a* b~ '~' ~other", [
            Word("/a*", "/a*", home=True), Word("b~"), Word("~"), Word("~other"),
        ]),
        ("\udcff", [Word("\udcff")]),
    ],
)  # fmt: skip
def test_a_command_is_split_into_words(command: str, words: list[Word]) -> None:
    assert split(command) == words


@pytest.mark.parametrize(
    "command",
    [
        "a; b", "a & b", "a | b", "a > b", "a < b", "a\nb", "(a)", "a `b`", "a $b", 'a "$b"',
        'a "`b`"', "a $(b)", "a {b,c}", "a # b", "a 'b", 'a "b', "a \\", "a \\\nb",
    ],
)  # fmt: skip
def test_a_command_with_shell_syntax_is_not_split(command: str) -> None:
    assert split(command) is None


@settings(deadline=None, max_examples=400)
@given(st.lists(PARTS | st.sampled_from(["\n", "\t", "'\n'"]), max_size=12).map("".join))
def test_words_are_split_as_by_a_shell(rest: str) -> None:
    words = split(rest)
    if words is None or any(word.pattern or word.home for word in words):
        return
    if any(word.text.startswith("~") for word in words):
        return  # a shell knows other users
    for shell in SHELLS:
        ran = subprocess.run(
            [shell, "-c", "printf '%s\\0' - " + rest], capture_output=True, timeout=30
        )
        assert ran.returncode == 0
        assert ran.stdout.decode().split("\0")[1:-1] == [word.text for word in words]


# Programs


@pytest.mark.parametrize(
    ("command", "parsed"),
    [
        ("scp -f a", ScpSource((Word("a"),), recursive=False, times=False)),
        ("scp -v -r -p -f -- -a b", ScpSource((Word("-a"), Word("b")), recursive=True, times=True)),
        ("scp -rpf ~/a", ScpSource((Word("/a", home=True),), recursive=True, times=True)),
        ("scp -d -t a", ScpSink(Word("a"))),
        ("md5sum", Checksum("md5sum", "md5", (), binary=False)),
        ("sha256sum -b a", Checksum("sha256sum", "sha256", (Word("a"),), binary=True)),
        ("sha1sum a -b -t", Checksum("sha1sum", "sha1", (Word("a"),), binary=False)),
        (
            "rclone hashsum sha256 a",
            Checksum("rclone hashsum sha256", "sha256", (Word("a"),), False),
        ),
    ],
)
def test_answered_commands_are_parsed(command: str, parsed: object) -> None:
    assert parse(command) == parsed


@pytest.mark.parametrize(
    "command",
    [
        "scp", "scp -f", "scp a b", "scp -f -t a", "scp -t a b", "scp -S sh -f a", "scp --help",
        "scp -f a; id", "scp -f $HOME", "scp -f a | sh", "SCP -f a", "/usr/bin/scp -f a",
        "md5sum -c a", "md5sum --check a", "md5sum a > b", "md5sum `id`", "md5 -r", "b3sum a",
        "xxh128sum", "rclone", "rclone hashsum", "rclone hashsum blake3 a", "rclone ls a",
        "rclone md5sum --config=x a", "md5sum " + "a" * 8_192, "*",
        "~/scp -f a", "'scp -f' a", "df -k /", "pwd", "cd /",
        "ls", "cat a", "rsync --server --sender . a", "", " ", "#",
    ],
)  # fmt: skip
def test_any_other_program_or_option_is_refused(command: str) -> None:
    assert parse(command) is None


@given(st.text(max_size=60) | st.text(max_size=60).map("md5sum ".__add__))
def test_any_text_is_parsed_or_refused(command: str) -> None:
    parsed = parse(command)
    assert parsed is None or isinstance(parsed, Text | ScpSource | ScpSink | Checksum)
