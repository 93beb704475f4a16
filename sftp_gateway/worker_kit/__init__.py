"""What a worker needs to mount the gateway: a kit of files, and its delivery over ssh.

No code that serves imports this package, and `fleet.py` in it is the only place in the project that
starts another program.
"""

from sftp_gateway.worker_kit.command import add_parser

__all__ = ["add_parser"]
