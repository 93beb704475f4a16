"""Every option of the gateway: its name, type, default, bounds and meaning, once.

Values come from a TOML file and, before it, from `SFTP_GATEWAY_*` environment variables (`__`
between the levels). The reference page, `.env.example` and the messages about mistakes are
derived from these models.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from sftp_gateway.errors import ConfigurationError
from sftp_gateway.settings_limits import NetworkText, PenaltySettings, StartupsText
from sftp_gateway.settings_status import HistorySettings, StatusSettings

ENV_PREFIX: Final = "SFTP_GATEWAY_"
#: Names the configuration file; not an option itself, because it says where options are.
CONFIG_VARIABLE: Final = "SFTP_GATEWAY_CONFIG"
DEFAULT_CONFIG_FILE: Final = Path("config/sftp-gateway.toml")

_GIB: Final = 1024**3

_USER_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")


def _user_name(name: str) -> str:
    if not _USER_NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is not a user name: give a letter or _ and then at most 31 letters, "
            "digits, _, - or ."
        )
    return name


def _share_name(name: str) -> str:
    parts = name.split("/")
    if any(part in ("", ".", "..") or len(part.encode()) > 255 for part in parts):
        raise ValueError(
            f"{name!r} is not a share name: give a relative path such as models or "
            ".cache/huggingface/hub, without empty parts, . and .."
        )
    if not name.isprintable():
        raise ValueError(f"{name!r} is not a share name: it has unprintable characters")
    return name


def _workers(given: object) -> object:
    """One sentence about what is neither, where pydantic would say one for each type."""
    if given == "auto" or (str(given).isdecimal() and 1 <= int(str(given)) <= _MAX_WORKERS):
        return given
    raise ValueError(f"give auto, or a number from 1 to {_MAX_WORKERS}")


UserName = Annotated[str, AfterValidator(_user_name)]
ShareName = Annotated[str, AfterValidator(_share_name)]
Port = Annotated[int, Field(ge=0, le=65535)]
#: Many more than there are processors would only cost memory.
_MAX_WORKERS: Final = 64
WorkerCount = Annotated[int, Field(ge=1, le=_MAX_WORKERS)]
#: An empty list would mean asyncssh's own choice.
CipherNames = Annotated[tuple[str, ...], Field(min_length=1)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ShareSettings(_Model):
    """One exported folder."""

    path: Path = Field(description="The folder on this machine that is served.")
    links: Literal["inside", "dereference"] = Field(
        "inside",
        description=(
            "`inside`: symbolic links are served as links, and followed only inside the share. "
            "`dereference`: they are served as what they lead to. Current sshfs (3.7.6, and "
            "Debian's updates of 3.7.3) refuses to follow links with `..` as a Hugging Face cache "
            "has them, unless it is mounted with `follow_symlinks`."
        ),
    )


class UserSettings(_Model):
    """One login. Its public keys are in `keys_dir`/authorized_keys/NAME."""

    shares: Literal["*"] | tuple[ShareName, ...] = Field(
        "*", description='The names of the shares that the user sees, or "*" for all of them.'
    )
    password_hash: SecretStr | None = Field(
        None,
        description=(
            "An argon2id hash, as `sftp-gateway hash-password` prints it. Without one the user "
            "logs in with a key only."
        ),
    )
    password_hash_file: Path | None = Field(
        None, description="A file that holds the hash instead, such as a Docker secret."
    )
    allow_from: tuple[NetworkText, ...] = Field(
        (),
        description=(
            "Addresses and networks that the user may log in from; empty means all. To a client "
            "elsewhere it looks as if its key or password were wrong."
        ),
    )
    max_sessions: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Connections of this user at once, in place of `max_sessions_per_user`.",
    )
    bandwidth_limit: int | None = Field(
        None,
        ge=65_536,
        le=1 << 40,
        description=(
            "Bytes a second that the user's sessions get, all together and over all workers. "
            "Without it they get what the machine gives."
        ),
    )

    @model_validator(mode="after")
    def _one_hash(self) -> Self:
        if self.password_hash is not None and self.password_hash_file is not None:
            raise ValueError("give password_hash or password_hash_file, not both")
        return self


class AccessLogSettings(_Model):
    """The access log: JSON lines, one for each event."""

    level: Literal["files", "requests"] = Field(
        "files",
        description=(
            "`files` logs logins, files, folders and refusals; `requests` every SFTP request too."
        ),
    )
    stdout: bool = Field(True, description="Write the log to standard output.")
    file: Path | None = Field(
        None, description="Write it to this file too; logrotate may move it away at any time."
    )
    file_max_bytes: int | None = Field(
        None,
        ge=1 << 16,
        le=1 << 40,
        description=(
            "Bytes after which the file is renamed to `FILE.1`, in place of an older one, and "
            "begun anew. Without it the file grows until logrotate moves it away."
        ),
    )
    overflow: Literal["block", "drop"] = Field(
        "block",
        description=(
            "When the log cannot be written fast enough: `block` lets clients wait so that no "
            "line is lost, `drop` goes on serving and counts the lines that are lost."
        ),
    )
    capacity: int = Field(
        10_000, ge=100, le=1_000_000, description="Events that may wait to be written."
    )


def _default_shares() -> dict[str, ShareSettings]:
    return {
        "Bhushanji": ShareSettings(path=Path("shared/Bhushanji")),
        "newsletters": ShareSettings(path=Path("shared/newsletters")),
        "models": ShareSettings(path=Path("shared/models")),
        ".cache/huggingface/hub": ShareSettings(
            path=Path("shared/huggingface/hub"), links="dereference"
        ),
    }


class Settings(BaseSettings):
    """All options; relative paths start at the working directory."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
    )

    host: str = Field("", description="The address to listen on; empty means all of them.")
    port: Port = Field(2222, description="The port of the SSH server; 0 picks a free one.")
    public_host: str = Field(
        "localhost",
        description="This machine's name as workers know it, for the mount line that is printed.",
    )
    public_port: Port | None = Field(
        None,
        description="The port that workers use, where it is another one (a published port).",
    )
    keys_dir: Path = Field(
        Path("keys"),
        description=(
            "The folder of the host key (ssh_host_ed25519_key, and ssh_host_rsa_key if there is "
            "one), of authorized_keys/, which holds one file for each user, and of user_ca_keys "
            "and revoked_keys, if there are any."
        ),
    )
    auto_setup: bool = Field(
        True,
        description=(
            "Make a missing host key, a worker's key pair and missing folders of the default "
            "shares at the start."
        ),
    )
    auto_reload: bool = Field(
        True,
        description=(
            "Take changes of the configuration file, of keys and of password hash files by itself, "
            "within a few seconds. Without it, SIGHUP is what asks for them."
        ),
    )
    end_sessions_of_removed_keys: bool = Field(
        True,
        description=(
            "When a key, a certificate's authority, a password or a user is taken away, or a key "
            "or certificate is revoked, end the sessions that logged in with it. A key or "
            "certificate that just expires ends none."
        ),
    )
    users: dict[UserName, UserSettings] = Field(
        default_factory=lambda: {"gvpocr": UserSettings()},
        description="The users that may log in. Naming any replaces the default list.",
    )
    shares: dict[ShareName, ShareSettings] = Field(
        default_factory=_default_shares,
        description="The exported folders. Naming any replaces the default list.",
    )
    show_uid: int | None = Field(
        None,
        ge=0,
        le=0xFFFFFFFF,
        description="Show this owner for everything, instead of the real ones.",
    )
    show_gid: int | None = Field(
        None,
        ge=0,
        le=0xFFFFFFFF,
        description="Show this group for everything, instead of the real ones.",
    )
    access_log: AccessLogSettings = Field(
        default_factory=AccessLogSettings, description="See the options below."
    )
    history: HistorySettings = Field(
        default_factory=HistorySettings, description="See the options below."
    )
    status: StatusSettings = Field(
        default_factory=StatusSettings, description="See the options below."
    )
    metrics_host: str = Field(
        "127.0.0.1",
        description=(
            "The address of the metrics, health and status endpoint. Metrics and health ask for "
            "no password: let only your monitoring reach it. The status page asks for a token "
            "where this is not 127.0.0.1 or ::1."
        ),
    )
    metrics_port: Port = Field(
        9222, description="The port of metrics, health and status page; 0 picks a free one."
    )
    ciphers: Literal["fast", "compatible"] | CipherNames = Field(
        "fast",
        description=(
            "`fast` offers AES-GCM only, where the processor has AES instructions, because stock "
            "clients would choose the slower chacha20-poly1305 if they could; `compatible` "
            "offers chacha20-poly1305, AES-CTR and plain HMACs too, for old clients; or a list "
            "of names."
        ),
    )
    nist_curves: bool = Field(
        False,
        description=(
            "Let ECDSA keys count, which are on the NIST curves: those of users (also in security "
            "keys) and ssh_host_ecdsa_key. Without it they are left out, with a warning for each."
        ),
    )
    rekey_limit: int = Field(
        _GIB,
        ge=1024 * 1024,
        le=64 * _GIB,  # RFC 4344 §3.2: no more than 2**32 blocks of 16 bytes with one key
        description=(
            "Bytes sent to a client after which the gateway asks for new keys. What it receives "
            "does not count: requests are small, and clients have limits of their own. New keys "
            "also come once an hour."
        ),
    )
    record_layer: Literal["own", "asyncssh"] = Field(
        "own",
        description=(
            "Who seals and opens SSH packets: the gateway itself, or asyncssh, which is slower. "
            "The gateway leaves them to asyncssh by itself where it does not know the installed "
            "version; this is for finding out whether a fault is in the gateway's own way."
        ),
    )
    landlock: Literal["auto", "require", "off"] = Field(
        "auto",
        description=(
            "Whether the kernel confines the processes too (Landlock), so that not even a fault in "
            "the gateway reads anything but the shares, changes a file, executes a program or "
            "makes a TCP connection. `auto` does as much as the kernel can and warns where that "
            "is not all; `require` does not start where files cannot be confined; `off` leaves "
            "it. docs/security.md has what it means."
        ),
    )
    login_grace_time: float = Field(
        30.0, gt=0, le=3600, description="Seconds in which a client must have logged in."
    )
    max_auth_tries: int = Field(
        6, ge=1, le=100, description="Refused login attempts after which a connection is closed."
    )
    keepalive_interval: float = Field(
        15.0, gt=0, le=3600, description="Seconds of silence after which a client is asked."
    )
    keepalive_count_max: int = Field(
        2,
        ge=1,
        le=100,
        description=(
            "Unanswered questions after which a client is given up, one `keepalive_interval` after "
            "the last of them."
        ),
    )
    workers: Annotated[Literal["auto"] | WorkerCount, BeforeValidator(_workers)] = Field(
        "auto",
        description=(
            "Processes that serve clients. `auto` takes one for each processor that the gateway "
            "may use (its CPU set and its container's CPU limit), at most 8. A client is served "
            "by one of them, and sshfs with `max_conns=N` by several."
        ),
    )
    max_connections: int = Field(
        2000,
        ge=1,
        le=1_000_000,
        description=(
            "Connections that may be open at once, over all workers and logged in or not. "
            "Further ones are closed at once."
        ),
    )
    disk_timeout: float = Field(
        60.0,
        gt=0,
        le=86_400,
        description=(
            "Seconds that a request may wait for a share's disk, and for others that wait for it "
            "too. Then it fails, and what the disk says later is thrown away. A read that fails so "
            "ends its session: sshfs takes a failed read for the end of the file, and at least all "
            "that follows on that file is an I/O error then. Mounts need `reconnect` to come back. "
            "The default is longer than a disk takes to spin up, or Linux to give up a SCSI "
            "command and try again (30 s); a share on NFS whose server fails over may need more."
        ),
    )
    max_connections_per_source: int = Field(
        1500,
        ge=1,
        le=1_000_000,
        description=(
            "Connections that may be open at once from one source: an IPv4 address, or a /64 of "
            "IPv6."
        ),
    )
    max_startups: StartupsText = Field(
        "1000:30:1500",
        description=(
            "`start:rate:full`: once `start` connections are open that have not logged in, `rate` "
            "of 100 further ones are refused at random, the more the more there are, and from "
            "`full` on all (as MaxStartups of sshd)."
        ),
    )
    max_startups_per_source: int = Field(
        750,
        ge=1,
        le=1_000_000,
        description="Connections of one source that may be open and not logged in.",
    )
    max_sessions_per_user: int = Field(
        2000,
        ge=1,
        le=1_000_000,
        description="Connections that one user may have at once, over all workers.",
    )
    source_ipv4_prefix: int = Field(
        32, ge=0, le=32, description="Bits of an IPv4 address that make one source."
    )
    source_ipv6_prefix: int = Field(
        64,
        ge=0,
        le=128,
        description=(
            "Bits of an IPv6 address that make one source: who has one address has its /64."
        ),
    )
    allow_from: tuple[NetworkText, ...] = Field(
        (),
        description=(
            "Addresses and networks that may connect; others are refused before anything is "
            "said. Empty means all."
        ),
    )
    penalties: PenaltySettings = Field(
        default_factory=PenaltySettings, description="See the options below."
    )
    idle_timeout: float = Field(
        0.0,
        ge=0,
        le=31_536_000,
        description=(
            "Seconds without an SFTP request after which a client that is logged in is "
            "disconnected; 0 for never, since mounts are idle for days."
        ),
    )
    max_handles: int = Field(
        1024,
        ge=16,
        le=65_536,
        description="Files and folders that one session may have open at once.",
    )
    drain_timeout: float = Field(
        10.0,
        ge=0,
        le=3600,
        description=(
            "Seconds that a stopping gateway gives sessions to finish the files they are reading."
        ),
    )

    @property
    def metrics_are_local(self) -> bool:
        """Whether only this machine itself can reach metrics and status page."""
        try:
            return ip_address(self.metrics_host).is_loopback
        except ValueError:
            return self.metrics_host == "localhost"

    @model_validator(mode="after")
    def _known_shares(self) -> Self:
        for name, user in self.users.items():
            unknown = set(() if user.shares == "*" else user.shares) - self.shares.keys()
            if unknown:
                raise ValueError(
                    f"users.{name}.shares names {', '.join(sorted(unknown))}, which is not one "
                    f"of the shares: {', '.join(sorted(self.shares))}"
                )
        return self


def load_settings(config_file: Path | None, environ: Mapping[str, str]) -> Settings:
    """Read the options from `config_file` and the process's environment.

    Without `config_file`, the file that SFTP_GATEWAY_CONFIG names is read, or
    config/sftp-gateway.toml if it exists.

    Raises ConfigurationError with every mistake at once.
    """
    named = _named_file(config_file, environ)
    file = named or DEFAULT_CONFIG_FILE
    mistakes = _unknown_variables(environ)
    if named is not None and not named.is_file():
        mistakes.append(f"{named}: there is no such configuration file")

    try:
        loaded = _from_file(file)()
    except ValidationError as error:
        mistakes += [_sentence(detail) for detail in error.errors() if not _is_echo(detail)]
    except tomllib.TOMLDecodeError as error:
        mistakes.append(f"{file}: not valid TOML: {error}")
    except (OSError, UnicodeDecodeError) as error:
        mistakes.append(f"{file}: cannot be read: {error}")
    except ValueError as error:  # pydantic-settings: a variable that should hold JSON does not
        mistakes.append(f"environment: {error}")
    if mistakes:
        raise ConfigurationError(mistakes)
    # A plain Settings, which another process can be handed: a local class cannot be pickled.
    return Settings.model_construct(
        **{name: getattr(loaded, name) for name in Settings.model_fields}
    )


def config_path(config_file: Path | None, environ: Mapping[str, str]) -> Path:
    """The file that `load_settings` reads, which need not be there."""
    return _named_file(config_file, environ) or DEFAULT_CONFIG_FILE


def _named_file(config_file: Path | None, environ: Mapping[str, str]) -> Path | None:
    named = environ.get(CONFIG_VARIABLE)
    return config_file or (Path(named) if named else None)


def _from_file(file: Path) -> type[Settings]:
    """Settings that take from `file` what the environment does not say."""

    class FromFile(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return env_settings, TomlConfigSettingsSource(settings_cls, file)

    return FromFile


def variable(option: str) -> str:
    """The environment variable of `option`, such as `access_log.level`."""
    return ENV_PREFIX + option.replace(".", "__").upper()


#: Options that have parts of their own, behind `__`.
_WITH_PARTS: Final = frozenset({"access_log", "history", "penalties", "shares", "status", "users"})


def _unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """A sentence for each variable that looks like an option and is none."""
    return [
        f"{name}: there is no such option; see docs/configuration.md"
        for name in sorted(environ)
        if name.upper().startswith(ENV_PREFIX)
        and name.upper() != CONFIG_VARIABLE
        and not _is_option(name[len(ENV_PREFIX) :].lower())
    ]


def _is_option(name: str) -> bool:
    """Whether `name` begins with an option; what is in one with parts, pydantic looks at."""
    option, nested, _ = name.partition("__")
    return option in Settings.model_fields and (not nested or option in _WITH_PARTS)


def _is_echo(detail: Any) -> bool:
    """Whether pydantic says it a second time: once for each type that an option may have."""
    if isinstance(detail["input"], list | tuple):
        return any(str(part).startswith("literal[") for part in detail["loc"])
    return bool(detail["type"] == "tuple_type")


def _is_of_pydantic(part: Any) -> bool:
    """Whether a part of a location is no name of an option, but which type or item it is about."""
    return isinstance(part, int) or part.startswith(("literal[", "tuple[")) or part == "[key]"


def _sentence(detail: Any) -> str:
    """What is wrong with one option, from pydantic's account of it; never a secret's value."""
    location = [part for part in detail["loc"] if not _is_of_pydantic(part)]
    message = str(detail["msg"]).removeprefix("Value error, ")
    if not location:
        return message
    option = ".".join(location)
    if detail["type"] == "extra_forbidden":
        return f"{option}: there is no such option; see docs/configuration.md"
    if location[0] not in ("users", "shares"):
        option += f" (environment: {variable(option)})"
    given = detail.get("input")
    # Whatever stands below `users` may be a password at the wrong place.
    if location[0] == "users" or not isinstance(given, str | int | float) or repr(given) in message:
        return f"{option}: {message}"
    return f"{option}: {message} (it is {given!r})"
