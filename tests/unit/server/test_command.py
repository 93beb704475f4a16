"""`echo WORDS` is answered exactly as a shell would, or not at all."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sftp_gateway.server.command import REFUSAL, answer

#: Those that this machine has; every machine has the first.
SHELLS = [shell for shell in ("sh", "bash", "dash") if shutil.which(shell)]


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
        ("echo " + "x" * 4000, "x" * 4000 + "\n"),
    ],
)
def test_words_are_answered(command: str, printed: str) -> None:
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
def test_anything_else_is_refused(command: str) -> None:
    assert answer(command) is None


def test_the_refusal_is_one_line() -> None:
    assert REFUSAL.count("\n") == 1
    assert REFUSAL.endswith("\n")
    assert REFUSAL.startswith("sftp-gateway: ")


#: Words, quotes and all that means something to a shell, in any order.
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
def test_what_is_answered_is_what_a_shell_prints(command: str) -> None:
    expected = answer(command)
    if expected is None:
        return
    for shell in SHELLS:
        ran = subprocess.run([shell, "-c", command], capture_output=True, timeout=30)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, expected.encode(), b"")


@given(st.text(max_size=40) | st.text(max_size=40).map("echo ".__add__))
def test_any_text_is_answered_with_one_line_or_not_at_all(command: str) -> None:
    expected = answer(command)
    assert expected is None or (expected.count("\n") == 1 and expected.endswith("\n"))
