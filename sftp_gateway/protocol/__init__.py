"""SFTP version 3, sans-IO: bytes to dataclasses and back (draft-ietf-secsh-filexfer-02)."""
