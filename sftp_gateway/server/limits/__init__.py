"""Limits of what clients may cost: time on the event loop, memory, descriptors, bandwidth."""
