"""SSH: connections, logins, channels; with server/packets, the only user of asyncssh."""
