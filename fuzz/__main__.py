"""Fuzzes one target: `python -m fuzz TARGET [libFuzzer's options] [corpus folders]`.

libFuzzer's options are at https://llvm.org/docs/LibFuzzer.html#options. An input that breaks a
target's promise ends the run with a status other than 0, and is written to `crash-...`.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["sftp_gateway", "fuzz"]):
    from fuzz.targets import TARGETS


def main() -> None:
    """Run what the command line says."""
    name, *options = sys.argv[1:] or [""]
    if name not in TARGETS:
        raise SystemExit(f"usage: python -m fuzz {{{','.join(TARGETS)}}} [options] [corpus]")
    atheris.Setup([f"fuzz {name}", *options], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
