"""Commands that clients run: scp, checksums, echo."""
