"""The record layer: SSH packets (RFC 4253 §6) sealed and opened without asyncssh's detours.

| module          | what it is                                                                   |
|-----------------|------------------------------------------------------------------------------|
| `ciphers`       | AEAD ciphers that are set up once for each key, not once for each packet     |
| `outgoing`      | channel data that is laid out as packets while it is made                    |
| `connection`    | an asyncssh connection that uses the two; all that leans on asyncssh's inside |
| `compatibility` | whether this asyncssh is one whose inside is known                           |
"""
