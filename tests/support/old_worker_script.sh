#!/bin/bash
# What workers were set up with before there was a kit, as far as it matters to the server: it must go
# on working unchanged, so nobody should improve it.
set -e

SFTP_PORT=2222
SFTP_USER=gvpocr
SSH_KEY="$HOME/.ssh/id_rsa"
MOUNT_POINT=/mnt/sshfs/main-server
CACHE="-o cache_timeout=3600"

while [[ $# -gt 0 ]]; do
    case $1 in
        -u|--user) SFTP_USER="$2"; shift 2 ;;
        -p|--port) SFTP_PORT="$2"; shift 2 ;;
        -P|--password) SFTP_PASSWORD="$2"; shift 2 ;;
        --key) SSH_KEY="$2"; shift 2 ;;
        --no-cache) CACHE=""; shift ;;
        --help) echo "Usage: $0 MAIN_SERVER [-u USER] [-p PORT] [-P PASSWORD] [--key FILE] [--no-cache]"; exit 0 ;;
        *) MAIN_SERVER="$1"; shift ;;
    esac
done

if [ -z "$MAIN_SERVER" ]; then echo "Error: main server is required"; exit 1; fi
if ! command -v sshfs > /dev/null; then
    apt-get update && apt-get install -y sshfs
fi

OPTIONS="-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
echo "Testing SSH connection..."
if [ -n "$SFTP_PASSWORD" ]; then
    sshpass -p "$SFTP_PASSWORD" ssh $OPTIONS -p "$SFTP_PORT" "$SFTP_USER@$MAIN_SERVER" "echo 'SSH connection successful'"
else
    ssh $OPTIONS -i "$SSH_KEY" -p "$SFTP_PORT" "$SFTP_USER@$MAIN_SERVER" "echo 'SSH connection successful'"
fi || { echo "SSH connection failed"; exit 1; }

mkdir -p "$MOUNT_POINT"
mountpoint -q "$MOUNT_POINT" && fusermount3 -u "$MOUNT_POINT"
MOUNT="sshfs $OPTIONS -o allow_other,default_permissions,reconnect,ServerAliveInterval=15,ServerAliveCountMax=3 $CACHE -p $SFTP_PORT"
if [ -n "$SFTP_PASSWORD" ]; then
    echo "$SFTP_PASSWORD" | $MOUNT -o password_stdin "$SFTP_USER@$MAIN_SERVER:/home/$SFTP_USER" "$MOUNT_POINT"
else
    $MOUNT -o IdentityFile="$SSH_KEY" "$SFTP_USER@$MAIN_SERVER:/home/$SFTP_USER" "$MOUNT_POINT"
fi
mountpoint -q "$MOUNT_POINT" || { echo "Mount failed"; exit 1; }
for folder in Bhushanji newsletters models .cache/huggingface/hub; do
    [ -d "$MOUNT_POINT/$folder" ] || { echo "Missing: $folder"; exit 1; }
done

grep -q "$MOUNT_POINT" /etc/fstab ||
    echo "$SFTP_USER@$MAIN_SERVER:/home/$SFTP_USER $MOUNT_POINT fuse.sshfs _netdev,allow_other,default_permissions,reconnect,ServerAliveInterval=15,ServerAliveCountMax=3,cache_timeout=3600,port=$SFTP_PORT,IdentityFile=$SSH_KEY,StrictHostKeyChecking=no 0 0" >> /etc/fstab

cat > docker-compose.sshfs-override.yml <<YAML
version: '3.8'
services:
  ocr-worker:
    volumes:
      - $MOUNT_POINT/Bhushanji:/app/Bhushanji:ro
      - $MOUNT_POINT/newsletters:/app/newsletters:ro
      - $MOUNT_POINT/models:/app/models:ro
      - $MOUNT_POINT/.cache/huggingface:/root/.cache/huggingface:ro
YAML
echo "Mounted $MAIN_SERVER at $MOUNT_POINT"
