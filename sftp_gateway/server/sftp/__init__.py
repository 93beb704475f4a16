"""One SFTP session: its requests, its READs, its handles."""
