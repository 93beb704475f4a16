"""The read-only tree of shares, confined by directory descriptors. Synchronous.

Functions that access a file system take `wait`. With `wait=False` they raise BlockingIOError
instead of blocking on a disk, and the caller repeats the call on a thread with `wait=True`. So the
event loop answers requests from the kernel's caches, and never blocks.
"""
