"""Hostile clients as a family: floods of every message, in every phase of a connection."""
