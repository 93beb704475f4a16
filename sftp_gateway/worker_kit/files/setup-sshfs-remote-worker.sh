#!/bin/sh
# Mounts the main server's folders on this worker, now and at every start, read-only.
set -u

lib=/usr/local/lib/sshfs-main-server
etc=/etc/sshfs-main-server
program=$lib/sshfs-main-server
unit=sshfs-main-server.service
kit=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 1
new=$etc.new
fstab_mark='# by sshfs-main-server: '

# The kit's own choices: SERVER, PORT, LOGIN, REMOTE, MOUNT and how it is mounted.
# shellcheck source=/dev/null
. "$kit/config" || exit 1
# Run from where it was installed, it goes by what is in use.
# shellcheck source=/dev/null
if [ "$kit" = "$lib" ] && [ -e "$etc/config" ]; then . "$etc/config"; fi

usage() {
    cat <<TEXT
usage: setup-sshfs-remote-worker.sh [options] [SERVER]

Installs sshfs, pins the server's host key, tries the login, mounts $MOUNT and
installs a service that mounts it at every start. Run it as root; running it again
brings everything up to date.

  SERVER               the server's name or address (default: $SERVER)
  -u, --user USER      who logs in (default: $LOGIN)
  -p, --port PORT      the server's port (default: $PORT)
  -k, --key FILE       the private key to log in with
  -P, --password PASSWORD
                       the password to log in with; better:
      --password-file FILE
      --remote FOLDER  the server's folder to mount (default: $REMOTE)
      --mount FOLDER   where (default: $MOUNT)
      --no-cache       see changes of the server at once, for more traffic
      --uninstall      unmount, and remove what this script installed
  -h, --help           this text
TEXT
}

step() { printf '==> %s\n' "$*"; }

# fail WHAT HINT...: what went wrong, then what to do about it.
fail() {
    printf 'error: %s\n' "$1" >&2
    shift
    for hint in "$@"; do printf '       %s\n' "$hint" >&2; done
    exit 1
}

# What a worker that was cut short left behind, and the kit's own folder when it was unpacked only
# for this (SSHFS_KIT_TEMP is set by worker-kit.sh).
tidy() {
    rm -rf -- "$new" ${SSHFS_KIT_SECRET:+"$SSHFS_KIT_SECRET"}
    case ${SSHFS_KIT_TEMP-} in /*) rm -rf -- "$SSHFS_KIT_TEMP" ;; esac
}

is_plain() { # is_plain TEXT: may be written in `config` and in ssh's configuration
    case $1 in '' | -* | *[!A-Za-z0-9._:/@%+-]*) return 1 ;; esac
}

options() {
    while [ $# -gt 0 ]; do
        # shellcheck disable=SC2034 # CACHE: `configure` writes it down
        case $1 in
        -h | --help) usage; exit 0 ;;
        --uninstall) action=uninstall; shift; continue ;;
        --no-cache) CACHE=$NO_CACHE; shift; continue ;;
        -u | --user | -p | --port | -k | --key | -P | --password | --password-file | --remote | --mount)
            [ $# -ge 2 ] || fail "$1 needs a value" "see --help" ;;
        -*) fail "$1 is no option" "see --help" ;;
        *) SERVER=$1; shift; continue ;;
        esac
        case $1 in
        -u | --user) LOGIN=$2 ;;
        -p | --port) PORT=$2 ;;
        -k | --key) key=$2 ;;
        -P | --password) password=$2 ;;
        --password-file) password_file=$2 ;;
        --remote) REMOTE=$2 ;;
        --mount) MOUNT=$2 ;;
        esac
        shift 2
    done
}

# A password on the command line is seen by whoever runs `ps`: start again without it, at once.
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
    is_plain "$SERVER" || fail "'$SERVER' is no server" "give its name or address: setup-sshfs-remote-worker.sh SERVER"
    is_plain "$LOGIN" || fail "'$LOGIN' is no user name"
    case $PORT in '' | *[!0-9]* | ??????*) fail "'$PORT' is no port" "give a number, such as -p 2222" ;; esac
    if ! is_plain "$MOUNT" || ! is_plain "$REMOTE" || [ "${MOUNT#/?}" = "$MOUNT" ]; then
        fail "cannot mount '$REMOTE' at '$MOUNT'" "give folders without blanks, --mount from / on"
    fi
    [ -z "$key" ] || [ -r "$key" ] || fail "the key $key cannot be read" \
        "copy it here from the server (keys/worker_ed25519), or make the kit with --key"
    [ -z "$password_file" ] || [ -r "$password_file" ] || fail "the password file $password_file cannot be read"
}

check_machine() {
    [ "$(id -u)" -eq 0 ] || fail 'this has to run as root' \
        "sudo sh $0, or from afar: ... | ssh USER@WORKER sudo sh"
    [ -c /dev/fuse ] || modprobe fuse 2>/dev/null
    [ -c /dev/fuse ] || fail 'there is no /dev/fuse, so nothing can be mounted' \
        'on a machine: modprobe fuse' \
        'in a container: docker run --device /dev/fuse --cap-add SYS_ADMIN --security-opt apparmor:unconfined'
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
            'install sshfs and an OpenSSH client by hand, and run this again'
    fi || {
        tail -n 5 "$new/install.log" >&2
        fail 'sshfs could not be installed' \
            'what the package manager said is above; can this machine reach its package server?' \
            'install sshfs by hand, and run this again'
    }
}

install_program() {
    step "installing $program"
    mkdir -p -- "$lib" || fail "$lib cannot be made"
    for file in sshfs-main-server setup-sshfs-remote-worker.sh config known_hosts sshfs-main-server.service \
        sshfs-main-server.openrc docker-compose.sshfs-override.yml .env.sshfs.example fstab.sshfs README.md; do
        ! cmp -s "$kit/$file" "$lib/$file" || continue
        case $file in sshfs-main-server*) changed=yes ;; esac
        # Beside it and then over it: what runs just now is never half a script.
        if ! cp -- "$kit/$file" "$lib/$file.new" || ! mv -- "$lib/$file.new" "$lib/$file"; then
            fail "$lib/$file cannot be written"
        fi
    done
    chmod 755 "$program" "$lib/setup-sshfs-remote-worker.sh"
    if [ -e "$kit/sshfs-doctor" ]; then
        cp -- "$kit/sshfs-doctor" /usr/local/bin/sshfs-doctor && chmod 755 /usr/local/bin/sshfs-doctor
    fi
}

# Written beside what is in use, and put in its place only when the login works.
configure() {
    umask 077
    for name in SERVER PORT LOGIN REMOTE MOUNT CACHE NO_CACHE MAX_CONNS READ_AHEAD_KB KEEPALIVE_INTERVAL \
        KEEPALIVE_COUNT CONNECT_TIMEOUT CHECK_INTERVAL HUNG_AFTER RETRY; do
        eval "printf \"%s='%s'\\n\" $name \"\$$name\""
    done >"$new/config" || fail "$new/config cannot be written"
    cp -- "$kit/known_hosts" "$new/known_hosts"
    if [ -n "$password_file" ]; then
        cp -- "$password_file" "$new/password"
    elif [ -n "$key" ]; then
        copy_key "$key"
    elif [ -e "$kit/worker_key" ]; then
        copy_key "$kit/worker_key"
    elif [ -e "$etc/key" ] || [ -e "$etc/password" ]; then
        for file in key key-cert.pub password; do
            [ ! -e "$etc/$file" ] || cp -- "$etc/$file" "$new/$file"
        done
    else
        fail 'there is no key to log in with' \
            'give --key FILE: a private key that the server lets in (keys/worker_ed25519 there),' \
            'or make the kit with it: sftp-gateway worker-kit --key FILE'
    fi
    umask 022
}

copy_key() { # and its certificate, if it has one
    cp -- "$1" "$new/key" || fail "the key $1 cannot be copied"
    [ ! -e "$1-cert.pub" ] || cp -- "$1-cert.pub" "$new/key-cert.pub"
}

try_login() {
    step "logging in: $LOGIN@$SERVER port $PORT"
    SSHFS_MAIN_SERVER_ETC=$new
    export SSHFS_MAIN_SERVER_ETC
    "$program" configure || fail "$new/ssh_config cannot be written"
    if "$program" login >"$new/said" 2>&1; then
        unset SSHFS_MAIN_SERVER_ETC
        return
    fi
    sed 's/^/ssh: /; s/\r$//' "$new/said" >&2
    explain "$(cat "$new/said")"
}

# By what OpenSSH says.
explain() {
    case $1 in
    *'Could not resolve hostname'*)
        fail "no machine is known by the name $SERVER" "is it spelt right? does 'getent hosts $SERVER' know it?" ;;
    *'IDENTIFICATION HAS CHANGED'* | *'Host key verification failed'* | *'host key is known for'*)
        fail "what answers at $SERVER port $PORT has another host key than the gateway that made this kit" \
            'if the gateway has got a new key: make the kit anew there, and run that' \
            'if not: something stands between this worker and the gateway. Nothing was sent to it' ;;
    *'Connection refused'*)
        fail "nothing listens at $SERVER port $PORT" \
            'is it the right port (-p)? is the gateway up (docker ps there)?' ;;
    *'timed out'* | *'No route to host'* | *'Network is unreachable'* | *'Host is unreachable'*)
        fail "there is no way to $SERVER port $PORT" "is the address right? does a firewall let port $PORT through?" ;;
    *'invalid format'* | *'error in libcrypto'* | *'no such identity'* | *'incorrect passphrase'*)
        fail 'the key is none that can be used without being asked' 'give a private key without a passphrase' ;;
    *'Permission denied'*)
        if [ -e "$new/password" ]; then
            fail "the password is not $LOGIN's, or $LOGIN may not log in from here" \
                "on the server: is there a password_hash, does allow_from let this machine's address in?"
        fi
        print=$(ssh-keygen -lf "$new/key" 2>/dev/null | cut -d' ' -f2)
        fail "the server does not let the key ${print:-} in as $LOGIN" \
            "on the server: sftp-gateway keys list; sftp-gateway keys add $LOGIN FILE.pub" \
            "is $LOGIN the right user (-u)?" ;;
    *'no matching'*) fail 'this OpenSSH is too old for the algorithms of the gateway' \
            'update it; the log of the gateway says what would help: negotiation_failed' ;;
    *closed* | *reset*)
        fail "the server closed the connection" \
            'it may have banned this address after failed logins, or not allow it: its log says which (source_banned)' ;;
    *) fail 'the login failed' 'what ssh said is above' ;;
    esac
}

# Whether what is mounted is just what would be mounted: then who reads from it is not disturbed.
is_up_to_date() {
    [ -z "$changed" ] && "$program" mounted && service_runs || return 1
    for file in config key key-cert.pub password; do
        [ -e "$etc/$file" ] || [ -e "$new/$file" ] || continue
        cmp -s "$etc/$file" "$new/$file" || return 1
    done
    cp -p -- "$new/known_hosts" "$etc/known_hosts"
}

# Takes the mount away from whatever had it: this service, the old script's, a line in fstab.
take_over() {
    stop_service
    if grep -q "^[^#].*[[:space:]]${MOUNT}[[:space:]].*sshfs" /etc/fstab 2>/dev/null; then
        step "commenting out the line of $MOUNT in /etc/fstab: the service mounts it now"
        sed -i "\\|^[^#].*[[:space:]]${MOUNT}[[:space:]].*sshfs|s|^|$fstab_mark|" /etc/fstab
    fi
    mkdir -p -- "$etc"
    for file in key key-cert.pub password said install.log; do rm -f -- "$etc/$file"; done
    rm -f -- "$new/said" "$new/install.log" "$new/ssh_config"
    if ! chmod 700 "$etc" || ! cp -p -- "$new"/* "$etc/"; then fail "$etc cannot be written"; fi
    "$program" clean || fail "$MOUNT is taken and cannot be unmounted" "umount -l $MOUNT"
    mkdir -p -- "$MOUNT" || fail "$MOUNT cannot be made" 'give another folder: --mount'
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
    step "mounting $MOUNT"
    if has_systemd; then
        cp -- "$lib/$unit" "/etc/systemd/system/$unit" && systemctl daemon-reload &&
            systemctl enable --quiet "$unit" && systemctl start "$unit"
    elif has_openrc; then
        cp -- "$lib/sshfs-main-server.openrc" /etc/init.d/sshfs-main-server &&
            chmod 755 /etc/init.d/sshfs-main-server &&
            rc-update -q add sshfs-main-server default && rc-service sshfs-main-server start
    else
        # No service manager: a process of its own, which nothing starts after a reboot.
        setsid "$program" supervise </dev/null >/var/log/sshfs-main-server.log 2>&1 &
        MAINPID=$! "$program" ready
    fi || fail "$MOUNT could not be mounted" "$(where_it_is_said)"
    ls "$MOUNT" >/dev/null || fail "$MOUNT is mounted but cannot be read" "$(where_it_is_said)"
}

where_it_is_said() {
    if has_systemd; then
        echo "what sshfs said: journalctl -u $unit -n 20"
    else
        echo 'what sshfs said: /var/log/sshfs-main-server.log, or the system log'
    fi
}

report() {
    step "mounted $LOGIN@$SERVER:$REMOTE at $MOUNT"
    if ! has_systemd && ! has_openrc; then
        printf '%s\n' 'This machine has neither systemd nor OpenRC: the mount is looked after until the next reboot.' \
            'For the time after it, start this at boot:' "    setsid $program supervise &" \
            "or put the line of $lib/fstab.sshfs into /etc/fstab (as the kit was made, without" \
            "the options given here)."
    fi
    printf '%s\n' "For containers: $lib/docker-compose.sshfs-override.yml" \
        "In trouble:     sshfs-doctor --mount $MOUNT" \
        "Undo it all:    $lib/setup-sshfs-remote-worker.sh --uninstall"
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
    rm -rf -- "$lib" "$etc" /run/sshfs-main-server
    rm -f -- /usr/local/bin/sshfs-doctor /var/log/sshfs-main-server.log
    rmdir -- "$MOUNT" 2>/dev/null
    step 'removed; sshfs itself is left installed'
}

action=install key='' password='' password_file='' hidden='' changed=''
options "$@"
[ -z "$password" ] || hide_password "$@"
trap tidy EXIT
check_options
check_machine
if [ "$action" = uninstall ]; then
    uninstall
    exit 0
fi
rm -rf -- "$new"
(umask 077 && mkdir -- "$new") || fail "$new cannot be made"
install_sshfs
install_program
configure
try_login
if is_up_to_date; then
    step 'nothing has changed: the mount is left as it is'
else
    take_over
    start_service
fi
report
