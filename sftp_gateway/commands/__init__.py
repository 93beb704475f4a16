"""The commands of `sftp-gateway`."""
