"""SFTP version 3, sans-IO: bytes to frozen dataclasses and back (draft-ietf-secsh-filexfer-02)."""
