"""Keys, certificates and the files that hold them."""
