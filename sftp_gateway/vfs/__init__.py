"""The read-only tree of shares, confined by directory descriptors; synchronous.

Every function that touches a file system takes `wait`: with `wait=False` it raises
BlockingIOError rather than wait for a disk, and the caller repeats it on a thread with
`wait=True`. That is how a request that the kernel's caches can answer is answered at once, and
no other ever stalls the event loop.
"""
