#!/bin/sh
# Mounts the main server's folders on this worker, read-only, now and at every boot.
set -u

lib=/usr/local/lib/sshfs-main-server
etc=/etc/sshfs-main-server
unit=sshfs-main-server.service
kit=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 1
new=$etc.new
old=$etc.old
program=$lib/sshfs-main-server
fstab_mark='# by sshfs-main-server: '

# The kit's defaults: SERVER, PORT, LOGIN, REMOTE, MOUNT and the options of the mount.
# shellcheck source=/dev/null
. "$kit/config" || exit 1
# If run from where it is installed, the configuration in use overrides the kit's.
# shellcheck source=/dev/null
if [ "$kit" = "$lib" ] && [ -e "$etc/config" ]; then . "$etc/config"; fi

usage() {
    cat <<TEXT
usage: setup-sshfs-remote-worker.sh [options] [SERVER]

Installs sshfs, pins the server's host key, tests the login, mounts $MOUNT and
installs a service that mounts it at every boot. Run it as root; run it again to
bring everything up to date.

  SERVER               the server's name or address (default: $SERVER)
  -u, --user USER      the login name (default: $LOGIN)
  -p, --port PORT      the server's port (default: $PORT)
  -k, --key FILE       the private key to log in with; default: the kit's or the installed
                       one, otherwise a new one for this worker only
      --own-key        generate such a key instead of using a shared one
      --name NAME      the comment of that key (default: $(own_name))
  -P, --password PASSWORD
                       the password to log in with; --password-file is safer
      --password-file FILE
                       a file with the password
      --remote FOLDER  the folder on the server (default: $REMOTE)
      --mount FOLDER   the mount point (default: $MOUNT)
      --no-cache       show changes on the server immediately, at the cost of more traffic
      --uninstall      unmount, and remove what this script installed
  -h, --help           show this help
TEXT
}

own_name() { uname -n | tr -c 'A-Za-z0-9._\n-' -; }

step() { printf '==> %s\n' "$*"; }

# fail MESSAGE HINT...: print what went wrong and what to do about it, and exit.
fail() {
    printf 'error: %s\n' "$1" >&2
    shift
    for hint in "$@"; do printf '       %s\n' "$hint" >&2; done
    [ -z "$kept" ] || printf '       %s\n' "the existing mount at $kept is unchanged" >&2
    exit 1
}

# Removes what an interrupted run left behind, and the kit's folder if worker-kit.sh unpacked it only
# for this run (SSHFS_KIT_TEMP).
tidy() {
    rm -rf -- "$new" "$old" "$lib.old" ${SSHFS_KIT_SECRET:+"$SSHFS_KIT_SECRET"}
    case ${SSHFS_KIT_TEMP-} in /*) rm -rf -- "$SSHFS_KIT_TEMP" ;; esac
}

is_plain() { # is_plain TEXT: safe to write into `config` and into ssh_config unquoted
    case $1 in '' | -* | *[!A-Za-z0-9._:/@%+-]*) return 1 ;; esac
}

options() {
    while [ $# -gt 0 ]; do
        # shellcheck disable=SC2034 # CACHE: `configure` writes it
        case $1 in
        -h | --help) usage; exit 0 ;;
        --uninstall) action=uninstall; shift; continue ;;
        --no-cache) CACHE=$NO_CACHE; shift; continue ;;
        --own-key) own=yes; shift; continue ;;
        -u | --user | -p | --port | -k | --key | -P | --password | --password-file | --remote | --mount | --name)
            [ $# -ge 2 ] || fail "$1 needs a value" "see --help" ;;
        -*) fail "unknown option $1" "see --help" ;;
        *) SERVER=$1; shift; continue ;;
        esac
        case $1 in
        -u | --user) LOGIN=$2 ;;
        -p | --port) PORT=$2 ;;
        -k | --key) key=$2 ;;
        -P | --password) password=$2 ;;
        --password-file) password_file=$2 ;;
        --remote) REMOTE=$2 ;;
        --mount) MOUNT=${2%/} ;;
        --name) name=$2 ;;
        esac
        shift 2
    done
}

# `ps` shows the command line to every user: restart at once without the password on it.
hide_password() {
    secret=$(umask 077 && mktemp) || exit 1
    for word in "$@"; do
        case $hidden in
        next) hidden=yes; printf '%s' "$word" >"$secret"; set -- "$@" --password-file "$secret" ;;
        *) case $word in
            -P | --password) hidden=next ;;
            *) set -- "$@" "$word" ;;
            esac ;;
        esac
        shift
    done
    SSHFS_KIT_SECRET=$secret exec sh "$0" "$@"
}

check_options() {
    is_plain "$SERVER" || fail "'$SERVER' is not a valid server name or address" "give its name or address: setup-sshfs-remote-worker.sh SERVER"
    is_plain "$LOGIN" || fail "'$LOGIN' is not a valid user name"
    case $PORT in '' | *[!0-9]* | ??????*) fail "'$PORT' is not a valid port" "give a number, such as -p 2222" ;; esac
    if ! is_plain "$MOUNT" || ! is_plain "$REMOTE" || [ "${MOUNT#/?}" = "$MOUNT" ]; then
        fail "cannot mount '$REMOTE' at '$MOUNT'" "give paths without blanks; --mount takes an absolute path"
    fi
    case $name in '' | -* | *[!A-Za-z0-9._@-]*) fail "'$name' is not a valid key name" "use letters, digits, dots and dashes" ;; esac
    [ -z "$own" ] || [ -z "$key$password_file" ] || fail '--own-key cannot be combined with --key or --password-file'
    [ -z "$key" ] || [ -r "$key" ] || fail "the key $key cannot be read" \
        "copy it here from the server (keys/worker_ed25519), or create the kit with --key"
    [ -z "$password_file" ] || [ -r "$password_file" ] || fail "the password file $password_file cannot be read"
}

check_machine() {
    [ "$(id -u)" -eq 0 ] || fail 'this script must run as root' \
        "run: sudo sh $0; or over ssh: ... | ssh USER@WORKER sudo sh"
    [ -c /dev/fuse ] || modprobe fuse 2>/dev/null
    [ -c /dev/fuse ] || fail '/dev/fuse is missing, so nothing can be mounted' \
        'on a host: modprobe fuse' \
        'in a container: docker run --device /dev/fuse --cap-add SYS_ADMIN --security-opt apparmor:unconfined'
}

# An sshfs mount at $MOUNT is this kit's or its predecessor's; any other is left alone.
check_mount() {
    kind=
    while read -r _ at type _; do
        [ "$at" != "$MOUNT" ] || kind=$type
    done </proc/mounts
    case $kind in
    '' | fuse.sshfs) ;;
    *) fail "$MOUNT is already a mount of type $kind" "choose another folder: --mount FOLDER" ;;
    esac
}

apt_install() {
    DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends sshfs openssh-client >>"$new/install.log" 2>&1
}

install_sshfs() {
    if command -v sshfs >/dev/null && command -v ssh >/dev/null; then
        step "sshfs is installed: $(sshfs --version 2>&1 | grep -i '^sshfs')"
        return
    fi
    step 'installing sshfs'
    if command -v apt-get >/dev/null; then
        apt_install || { apt-get update -qq && apt_install; } >>"$new/install.log" 2>&1
    elif command -v dnf >/dev/null; then
        dnf install -y -q fuse-sshfs openssh-clients >"$new/install.log" 2>&1
    elif command -v apk >/dev/null; then
        apk add --quiet sshfs openssh-client >"$new/install.log" 2>&1
    else
        fail 'sshfs is not installed, and this machine has neither apt-get, dnf nor apk' \
            'install sshfs and an OpenSSH client manually, then run this script again'
    fi || {
        tail -n 5 "$new/install.log" >&2
        fail 'sshfs could not be installed' \
            'see the output of the package manager above; can this machine reach its package server?' \
            'install sshfs manually, then run this script again'
    }
}

install_program() {
    step "installing $program"
    mkdir -p -- "$lib" || fail "cannot create $lib"
    for file in sshfs-main-server setup-sshfs-remote-worker.sh config known_hosts sshfs-main-server.service \
        sshfs-main-server.openrc docker-compose.sshfs-override.yml .env.sshfs.example fstab.sshfs README.md; do
        ! cmp -s "$kit/$file" "$lib/$file" || continue
        # Replaced atomically: a running shell must not read half a script.
        if ! cp -- "$kit/$file" "$lib/$file.new" || ! mv -- "$lib/$file.new" "$lib/$file"; then
            fail "cannot write $lib/$file"
        fi
    done
    chmod 755 "$program" "$lib/setup-sshfs-remote-worker.sh"
    if [ -e "$kit/sshfs-doctor" ]; then
        cp -- "$kit/sshfs-doctor" /usr/local/bin/sshfs-doctor && chmod 755 /usr/local/bin/sshfs-doctor
    fi
}

# Writes the new configuration to $new, with a copy of the program to test it. It replaces the one
# in use only after the login and the mount have succeeded.
configure() {
    umask 077
    for option in SERVER PORT LOGIN REMOTE MOUNT CACHE NO_CACHE MAX_CONNS READ_AHEAD_KB KEEPALIVE_INTERVAL \
        KEEPALIVE_COUNT CONNECT_TIMEOUT CHECK_INTERVAL HUNG_AFTER RETRY RETRY_MAX; do
        eval "printf \"%s='%s'\\n\" $option \"\$$option\""
    done >"$new/config" || fail "cannot write $new/config"
    cp -- "$kit/known_hosts" "$new/known_hosts"
    cp -- "$kit/sshfs-main-server" "$new/program" && chmod 700 "$new/program"
    if [ -n "$password_file" ]; then
        cp -- "$password_file" "$new/password"
    elif [ -n "$key" ]; then
        copy_key "$key"
    elif [ -n "$own" ] && [ ! -e "$etc/key.pub" ]; then
        own_key
    elif [ -e "$kit/worker_key" ] && [ -z "$own" ]; then
        copy_key "$kit/worker_key"
    elif [ -e "$etc/key" ] || [ -e "$etc/password" ]; then
        own=
        for file in key key.pub key-cert.pub password; do
            [ ! -e "$etc/$file" ] || cp -- "$etc/$file" "$new/$file"
        done
    else
        own_key
    fi
    umask 022
}

copy_key() { # and its certificate, if it has one
    cp -- "$1" "$new/key" || fail "cannot copy the key $1"
    [ ! -e "$1-cert.pub" ] || cp -- "$1-cert.pub" "$new/key-cert.pub"
}

# A key that never leaves this machine. It stays in own_key until the server accepts it.
own_key() {
    if ! mkdir -p -- "$etc" || ! chmod 700 "$etc"; then fail "cannot create $etc"; fi
    own=there
    if [ ! -e "$etc/own_key" ] || [ ! -e "$etc/own_key.pub" ]; then
        rm -f -- "$etc/own_key"
        ssh-keygen -q -t ed25519 -N '' -C "$name" -f "$etc/own_key" >&2 || fail "ssh-keygen could not create a key; its output is above"
        own=made
    fi
    if ! cp -- "$etc/own_key" "$new/key" || ! cp -- "$etc/own_key.pub" "$new/key.pub"; then
        fail "cannot write $new/key"
    fi
}

# `sftp-gateway worker-kit --hosts` reads the key from this output and authorizes it.
show_key() {
    read -r line <"$new/key.pub"
    step "the key of this worker: $line"
    printf '    %s\n' "authorize it on the server, in the gateway's folder:" \
        "    echo '$line' | $KEYS_ADD $LOGIN"
}

try_login() {
    step "logging in: $LOGIN@$SERVER port $PORT"
    "$new/program" configure || fail "cannot write $new/ssh_config"
    waited=0
    if [ -n "$own" ]; then
        show_key
        [ "$own" != made ] || wait_for_key
    fi
    until "$new/program" login >"$new/said" 2>&1; do
        # Closed: the server has banned this address, for failed logins of other hosts behind it too.
        case $(cat "$new/said") in
        *'Permission denied'* | *closed* | *reset*) [ -n "$own" ] && [ "$waited" -lt "$KEY_WAIT" ] ;;
        *) false ;;
        esac || {
            quote ssh
            explain "$(cat "$new/said")"
        }
        wait_for_key
    done
}

# The server needs a few seconds to reload its keys; the penalty of a refused login is shorter.
wait_for_key() {
    [ "$waited" -gt 0 ] || step "waiting for the server to accept the key, up to $KEY_WAIT s"
    waited=$((waited + 6))
    sleep 6
}

quote() { sed "s/^/$1: /; s/\r\$//" "$new/said" >&2; }

# At a temporary mount point, so that the mount in use stays until the new one is known to work.
try_mount() {
    step "trying to mount $REMOTE"
    ! "$new/program" try >"$new/said" 2>&1 || return 0
    quote sshfs
    case $(cat "$new/said") in
    *'No such file or directory'* | *'Not a directory'*)
        fail "the server has no folder $REMOTE for $LOGIN" \
            "check the spelling (--remote); /home/$LOGIN is the folder of all shares" \
            "on the server, sftp-gateway check shows the shares and their users" ;;
    *) fail "cannot mount $REMOTE of $SERVER" 'the output of sshfs is above' ;;
    esac
}

# Explains ssh's error message, $1, and exits.
explain() {
    case $1 in
    *'Could not resolve hostname'*)
        fail "cannot resolve the host name $SERVER" "check the spelling; 'getent hosts $SERVER' must print an address" ;;
    *'IDENTIFICATION HAS CHANGED'* | *'Host key verification failed'* | *'host key is known for'*)
        fail "the host key of $SERVER port $PORT is not that of the gateway that created this kit" \
            'if the gateway has a new host key: create a new kit there and run it' \
            'if not: another machine answers in its place. No credentials were sent to it' ;;
    *'Connection refused'*)
        fail "nothing listens at $SERVER port $PORT" \
            'is the port right (-p)? is the gateway running (docker ps on the server)?' ;;
    *'timed out'* | *'No route to host'* | *'Network is unreachable'* | *'Host is unreachable'*)
        fail "cannot reach $SERVER port $PORT" "check the address, and that no firewall blocks port $PORT" ;;
    *'invalid format'* | *'error in libcrypto'* | *'no such identity'* | *'incorrect passphrase'*)
        fail 'the key cannot be used: it has a passphrase, or is not an OpenSSH private key' \
            'give a private key without a passphrase (-k)' ;;
    *'Permission denied'*)
        if [ -e "$new/password" ]; then
            fail "the server rejected the password of $LOGIN, or $LOGIN may not log in from this address" \
                "on the server: does $LOGIN have a password_hash, and does allow_from include this machine's address?"
        fi
        print=$(ssh-keygen -lf "$new/key" 2>/dev/null | cut -d' ' -f2)
        fail "the server rejected the key ${print:-} for $LOGIN" \
            "on the server: sftp-gateway keys list; $KEYS_ADD $LOGIN FILE.pub" \
            "is $LOGIN the right user (-u)?" ;;
    *'no matching'*) fail 'this OpenSSH is too old for the algorithms of the gateway' \
            "update it; for the missing algorithm, see negotiation_failed in the gateway's log" ;;
    *closed* | *reset*)
        fail "the server closed the connection" \
            "this address may be banned after failed logins (source_banned in the server's log), or not in allow_from" ;;
    *) fail 'the login failed' 'the output of ssh is above' ;;
    esac
}

# Whether the current mount is the same as the new one would be; then its readers are left alone.
is_up_to_date() {
    if [ -z "$kept" ] || ! service_runs || ! "$program" mounted; then return 1; fi
    for file in sshfs-main-server sshfs-main-server.service sshfs-main-server.openrc; do
        cmp -s "$kit/$file" "$lib/$file" || return 1
    done
    for file in config key key-cert.pub password; do
        [ -e "$etc/$file" ] || [ -e "$new/$file" ] || continue
        cmp -s "$etc/$file" "$new/$file" || return 1
    done
    cp -p -- "$new/known_hosts" "$etc/known_hosts"
}

# Replaces the current mount, whether made by this service, its predecessor or a line in fstab.
take_over() {
    if [ -e "$etc/config" ]; then
        if ! cp -Rp -- "$etc" "$old" || ! cp -Rp -- "$lib" "$lib.old"; then fail "cannot write $old"; fi
    fi
    kept=
    stop_service
    install_program
    if grep -q "^[^#].*[[:space:]]${MOUNT}[[:space:]].*sshfs" /etc/fstab 2>/dev/null; then
        step "commenting out $MOUNT in /etc/fstab: the service now mounts it"
        sed -i "\\|^[^#].*[[:space:]]${MOUNT}[[:space:]].*sshfs|s|^|$fstab_mark|" /etc/fstab
    fi
    mkdir -p -- "$etc"
    for file in key key.pub key-cert.pub password said install.log; do rm -f -- "$etc/$file"; done
    [ -z "$own" ] || rm -f -- "$etc/own_key" "$etc/own_key.pub"
    rm -f -- "$new/said" "$new/install.log" "$new/ssh_config" "$new/program"
    if ! chmod 700 "$etc" || ! cp -p -- "$new"/* "$etc/"; then give_up "cannot write $etc"; fi
    "$program" clean || give_up "cannot unmount what is mounted at $MOUNT" "run: umount -l $MOUNT"
    mkdir -p -- "$MOUNT" || give_up "cannot create $MOUNT" 'choose another folder: --mount FOLDER'
}

# Restores the previous installation, then fails.
give_up() {
    if [ -e "$old" ]; then
        stop_service
        rm -rf -- "$etc" "$lib"
        mv -- "$old" "$etc" && mv -- "$lib.old" "$lib" && start_service
        # shellcheck source=/dev/null
        "$program" mounted && kept=$(. "$etc/config" && echo "$MOUNT")
    fi
    fail "$@"
}

has_systemd() { [ -d /run/systemd/system ]; }
has_openrc() { command -v rc-service >/dev/null && [ -d /run/openrc ]; }

stop_service() {
    if has_systemd; then
        systemctl stop "$unit" 2>/dev/null
    elif has_openrc; then
        rc-service sshfs-main-server stop >/dev/null 2>&1
    elif [ -x "$program" ] && [ -e "$etc/config" ]; then
        "$program" stop
    fi
}

service_runs() {
    if has_systemd; then
        systemctl is-active --quiet "$unit"
    elif has_openrc; then
        rc-service -q sshfs-main-server status
    else
        "$program" supervised
    fi
}

start_service() {
    if has_systemd; then
        cp -- "$lib/$unit" "/etc/systemd/system/$unit" && systemctl daemon-reload &&
            systemctl enable --quiet "$unit" && systemctl start "$unit"
    elif has_openrc; then
        cp -- "$lib/sshfs-main-server.openrc" /etc/init.d/sshfs-main-server &&
            chmod 755 /etc/init.d/sshfs-main-server &&
            rc-update -q add sshfs-main-server default && rc-service sshfs-main-server start
    else
        # Without a service manager: a background process, which does not survive a reboot.
        setsid "$program" supervise </dev/null >/var/log/sshfs-main-server.log 2>&1 &
        MAINPID=$! "$program" ready
    fi && "$program" mounted && "$program" answers
}

mount_it() {
    step "mounting $MOUNT"
    ! start_service 2>"$new.said" || { rm -f -- "$new.said"; return 0; }
    { cat -- "$new.said"; "$program" said; } >&2
    rm -f -- "$new.said"
    give_up "cannot mount $MOUNT" 'the output of the service is above'
}

report() {
    step "mounted $LOGIN@$SERVER:$REMOTE at $MOUNT"
    if ! has_systemd && ! has_openrc; then
        printf '%s\n' 'This machine has neither systemd nor OpenRC, so the mount will not survive a reboot.' \
            'To mount at boot, start this:' "    setsid $program supervise &" \
            "or add the line in $lib/fstab.sshfs to /etc/fstab (it has the kit's defaults, not the" \
            "options given here)."
    fi
    if [ -e "$etc/key" ] && [ ! -e "$etc/key.pub" ]; then
        printf '%s\n' 'This worker logs in with a key that others may share. For a key of its own, which can be' \
            "revoked separately: $lib/setup-sshfs-remote-worker.sh --own-key"
    fi
    printf '%s\n' "For containers: $lib/docker-compose.sshfs-override.yml" \
        "To diagnose:    sshfs-doctor" \
        "To uninstall:   $lib/setup-sshfs-remote-worker.sh --uninstall"
}

uninstall() {
    # shellcheck source=/dev/null
    [ ! -e "$etc/config" ] || . "$etc/config"
    step "removing the mount $MOUNT"
    stop_service
    if has_systemd; then
        systemctl disable --quiet "$unit" 2>/dev/null
        rm -f -- "/etc/systemd/system/$unit"
        systemctl daemon-reload
        systemctl reset-failed "$unit" 2>/dev/null
    elif has_openrc; then
        rc-update -q del sshfs-main-server default 2>/dev/null
        rm -f /etc/init.d/sshfs-main-server
    fi
    [ ! -x "$program" ] || [ ! -e "$etc/config" ] || "$program" clean
    sed -i "s|^$fstab_mark||" /etc/fstab 2>/dev/null
    rm -rf -- "$lib" "$etc" "$old" "$lib.old" /run/sshfs-main-server
    rm -f -- /usr/local/bin/sshfs-doctor /var/log/sshfs-main-server.log
    rmdir -- "$MOUNT" 2>/dev/null
    step 'removed; sshfs itself remains installed'
}

action=install key='' own='' password='' password_file='' hidden='' kept=''
name=$(own_name)
options "$@"
[ -z "$password" ] || hide_password "$@"
trap tidy EXIT
check_options
check_machine
if [ "$action" = uninstall ]; then
    uninstall
    exit 0
fi
check_mount
if [ -e "$etc/config" ] && [ -x "$program" ] && "$program" mounted; then
    # shellcheck source=/dev/null
    kept=$(. "$etc/config" && echo "$MOUNT")
fi
rm -rf -- "$new" "$old" "$lib.old"
(umask 077 && mkdir -- "$new") || fail "cannot create $new"
install_sshfs
configure
export SSHFS_MAIN_SERVER_ETC="$new"
try_login
try_mount
unset SSHFS_MAIN_SERVER_ETC
if is_up_to_date; then
    step 'already up to date: the mount is unchanged'
    install_program
else
    take_over
    mount_it
fi
report
