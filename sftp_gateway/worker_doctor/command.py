"""The command line, the order of the checks, and the report."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import asdict
from typing import Sequence

from sftp_gateway.worker_doctor.keys import check_certificate, check_key
from sftp_gateway.worker_doctor.login import check_folder, check_login
from sftp_gateway.worker_doctor.mount import check_mount, check_options, check_read_ahead
from sftp_gateway.worker_doctor.network import check_network
from sftp_gateway.worker_doctor.programs import check_allow_other, check_fuse_conf, check_programs
from sftp_gateway.worker_doctor.target import PROBLEM, Finding, Target, find_target
from sftp_gateway.worker_doctor.throughput import check_throughput


def examine(options: argparse.Namespace, password: str = "") -> Target:
    """Look at everything, each thing only where what it needs is there."""
    target = find_target(options)
    check_programs(target)
    check_allow_other(target)
    check_fuse_conf(target, options.fuse_conf)
    if target.server and shutil.which("ssh"):
        check_key(target)
        check_certificate(target)
        if check_network(target) and check_login(target, password) and not password:
            check_folder(target)
    if target.mount and check_mount(target):
        check_options(target)
        check_read_ahead(target)
        if options.seconds > 0:
            check_throughput(target, options.seconds, options.file)
    return target


def parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The options of the program."""
    made = argparse.ArgumentParser(
        prog=prog,
        description="Say what is wrong with an sshfs mount of this machine, and what to do.",
        epilog="Exit status: 0 where there is no problem, 1 where there is one.",
        allow_abbrev=False,
    )
    made.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    made.add_argument(
        "--mount", metavar="PATH", default="",
        help="the mount; server, port, user and key are taken from it",
    )  # fmt: skip
    made.add_argument("--server", metavar="HOST", default="", help="where nothing is mounted yet")
    made.add_argument("--port", metavar="N", default="", help="default: the mount's, or 2222")
    made.add_argument("--user", metavar="NAME", default="", help="default: the mount's, or gvpocr")
    made.add_argument("--path", metavar="PATH", default="", help="the server's folder to mount")
    made.add_argument("--key", metavar="FILE", default="", help="the private key to log in with")
    made.add_argument("--known-hosts", metavar="FILE", default="", help="default: ssh's own")
    made.add_argument(
        "--password-stdin", action="store_true", help="try the password on standard input"
    )
    made.add_argument(
        "--file", metavar="FILE", default="", help="measure with this file of the mount"
    )
    made.add_argument(
        "--seconds", metavar="N", type=float, default=5.0,
        help="how long to measure the throughput; 0: not at all; default: 5",
    )  # fmt: skip
    made.add_argument("--json", action="store_true", help="print one JSON document")
    made.add_argument("--fuse-conf", default="/etc/fuse.conf", help=argparse.SUPPRESS)
    return made


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run with `arguments` (sys.argv), print what was found, return the exit status."""
    made = parser(prog)
    options = made.parse_args(arguments)
    if not options.mount and not options.server:
        made.error("give --mount PATH, or --server HOST where nothing is mounted yet")
    if options.port and not (options.port.isdigit() and 0 < int(options.port) < 65536):
        made.error(f"--port: {options.port!r} is no port")
    password = sys.stdin.readline().rstrip("\n") if options.password_stdin else ""
    target = examine(options, password)
    failed = any(finding.status == PROBLEM for finding in target.findings)
    if options.json:
        findings = [asdict(finding) for finding in target.findings]
        print(json.dumps({"ok": not failed, "findings": findings}, indent=2))
    else:
        for finding in target.findings:
            show(finding)
    return int(failed)


def show(finding: Finding) -> None:
    """Print a finding for people."""
    print(f"{finding.status:<8} {finding.check:<12} {finding.found}")
    if finding.means:
        print(f"{'':<21} {finding.means}")
    for command in finding.do:
        print(f"{'':<21} $ {command}")
