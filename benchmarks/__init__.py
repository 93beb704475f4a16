"""The gateway against other SFTP servers: same machine, same run, stock clients."""
