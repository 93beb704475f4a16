"""The read-only tree of shares, confined by directory descriptors; synchronous.

Every function that touches a file system takes `wait`. With `wait=False` it raises BlockingIOError
instead of blocking on a disk, and the caller repeats it on a thread with `wait=True`. Requests that
the kernel's caches can answer are answered at once, and none ever stalls the event loop.
"""
