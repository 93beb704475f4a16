"""What a worker needs to mount the gateway: a kit of files, and its delivery over ssh.

No code that serves imports this package, and `fleet.py` and `doctor.py` in it are the only places
in the project that start other programs.
"""
