"""The packet layer: SSH's binary packet protocol (RFC 4253 §6) for the packets that are nearly all.

| module          | what it has                                                             |
|-----------------|-------------------------------------------------------------------------|
| `ciphers`       | AEAD ciphers that are set up once for each key, not for each packet     |
| `outgoing`      | a buffer in which channel data is laid out as packets while it is made  |
| `connection`    | an asyncssh connection that uses both                                   |
| `compatibility` | whether the installed asyncssh has the internals that `connection` uses |
| `transport`     | bounded reads from the socket, and gathered writes to it                |
"""
