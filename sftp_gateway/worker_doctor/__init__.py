"""What is wrong with a mount, seen from the worker that has it.

For Python 3.8 and newer and with nothing but its standard library, because it is carried, as one
file (`one_file.py`), to workers that have no sftp-gateway. It asks the worker's own ssh, sftp and
ssh-keygen; the server never imports what starts them.
"""
