"""The process: its sockets, its event loop, its signals."""
