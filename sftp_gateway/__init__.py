"""A read-only SFTP server for workers that mount with stock sshfs."""

__version__ = "0.1.0"
