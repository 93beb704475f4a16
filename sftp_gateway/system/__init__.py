"""The operating system: descriptors, files, forks, sockets, systemd."""
