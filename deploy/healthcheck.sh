#!/usr/bin/env bash
# Asks the daemon of this container whether it is well: exit code 0 when PATH (/health, or /ready) answers 200. Bash alone, since an image needs no
# HTTP client for it. The port is that of LORAD_LISTEN.
set -u
path=${1:-/health}
port=${LORAD_LISTEN##*:}
exec 3<>"/dev/tcp/127.0.0.1/${port:-8080}" || exit 1
printf 'GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$path" >&3
read -r -t 3 _ status _ <&3 && [ "$status" = 200 ]
