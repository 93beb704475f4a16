"""Hostile clients that flood a gateway with every message, in every phase of a connection."""
