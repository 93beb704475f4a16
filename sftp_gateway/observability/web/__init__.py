"""The HTTP endpoint and the status page."""
