"""`sftp-gateway completion`: tab completion of commands, options, users, shares and keys."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import argcomplete
from argcomplete.shell_integration import shellcode

from sftp_gateway.auth import AuthorizedKey
from sftp_gateway.auth.keys.keyring import key_lines
from sftp_gateway.config.bootstrap import AUTHORIZED_KEYS
from sftp_gateway.console import load_env_file
from sftp_gateway.errors import ConfigurationError
from sftp_gateway.observability.access_log.json_lines import printable
from sftp_gateway.settings import Settings, load_settings

_SHELLS: Final = ("bash", "zsh", "fish")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.set_defaults(run=_run)
    parser.epilog = (
        'bash and zsh: eval "$(sftp-gateway completion bash)" in the start-up file; fish: '
        "sftp-gateway completion fish > ~/.config/fish/completions/sftp-gateway.fish"
    )
    parser.add_argument("SHELL", choices=_SHELLS, help="bash, zsh or fish")


def _run(options: argparse.Namespace) -> int:
    print(shellcode(["sftp-gateway"], shell=options.SHELL))
    return 0


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell's question and exit."""
    for action in _actions(parser):
        if completer := _COMPLETERS.get(action.dest):
            action.completer = completer  # type: ignore[attr-defined]
    argcomplete.autocomplete(parser)


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from _actions(sub)
        else:
            yield action


def _settings(parsed: argparse.Namespace) -> Settings | None:
    with suppress(ConfigurationError, OSError):
        load_env_file(os.environ)
        file = getattr(parsed, "config", None)
        return load_settings(None if file is None else Path(file), os.environ)
    return None


def _users(parsed_args: argparse.Namespace, **_: object) -> list[str]:
    settings = _settings(parsed_args)
    return [] if settings is None else list(settings.users)


def _shares(parsed_args: argparse.Namespace, **_: object) -> list[str]:
    settings = _settings(parsed_args)
    return [] if settings is None else list(settings.shares)


def _keys(parsed_args: argparse.Namespace, **_: object) -> list[str]:
    settings, user = _settings(parsed_args), getattr(parsed_args, "USER", None)
    if settings is None or user not in settings.users:
        return []
    with suppress(OSError, UnicodeDecodeError):
        text = (settings.keys_dir / AUTHORIZED_KEYS / user).read_text(encoding="utf-8")
        return [_name(key) for _, key in key_lines(text)]
    return []


def _name(key: AuthorizedKey) -> str:
    shown = key.comment and printable(key.comment) == key.comment
    return key.comment if shown else key.fingerprint


_COMPLETERS: Final[Mapping[str, Callable[..., list[str]]]] = {
    "USER": _users,
    "user": _users,
    "share": _shares,
    "KEY": _keys,
}
