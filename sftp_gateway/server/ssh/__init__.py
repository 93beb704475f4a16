"""SSH on asyncssh's transport: connections, logins, channels."""
