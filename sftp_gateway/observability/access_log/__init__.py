"""The access log: events, their encoding, the way to the file."""
