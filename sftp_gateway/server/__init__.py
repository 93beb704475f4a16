"""The asyncio shell around the protocol, the file tree and the logins."""
