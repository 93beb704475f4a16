"""Public keys, certificates, and the files that contain them."""
