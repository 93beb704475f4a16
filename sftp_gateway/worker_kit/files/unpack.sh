#!/bin/sh
# Sets up the mount of the main server on a worker. Created by `sftp-gateway worker-kit`.
#
#   sh worker-kit.sh [options of setup-sshfs-remote-worker.sh]      as root
#   sh worker-kit.sh --extract FOLDER                               unpack only
#   ... | ssh root@WORKER sh
#
# The shell reads all of it before it runs anything, so a truncated copy does nothing.
set -u

unpack() { # unpack FOLDER
    command -v base64 >/dev/null && command -v tar >/dev/null && command -v gzip >/dev/null || {
        echo 'error: base64, tar and gzip are needed to unpack the kit' >&2
        return 1
    }
    base64 -d <<'END_OF_KIT' | tar -xzf - -C "$1"
@ARCHIVE@
END_OF_KIT
}

main() {
    if [ "${1-}" = --extract ]; then
        mkdir -p -- "${2:?a folder to extract to}" && unpack "$2"
        return
    fi
    # The kit may contain keys.
    umask 077
    SSHFS_KIT_TEMP=$(mktemp -d) && unpack "$SSHFS_KIT_TEMP" || return 1
    export SSHFS_KIT_TEMP
    umask 022
    # exec, so that a password among the options does not remain visible in `ps`; </dev/null, because
    # this script may come through a pipe.
    exec sh "$SSHFS_KIT_TEMP/setup-sshfs-remote-worker.sh" "$@" </dev/null
}

main @ARGUMENTS@ "$@"
