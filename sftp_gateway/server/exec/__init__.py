"""The commands that are answered: `scp`, checksums, `echo`."""
