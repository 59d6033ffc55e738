#!/bin/sh
# What tests/clients needs beside Python: Node, the JavaScript client, a browser. Installs what is missing, or says what it cannot install.
set -eu
cd "$(dirname "$0")/js"

has() { command -v "$1" >/dev/null 2>&1; }

missing=""
if ! has node || ! has npm; then missing="nodejs npm"; fi
if ! has chromium && ! has chromium-browser && ! has google-chrome && ! has google-chrome-stable; then missing="$missing chromium"; fi
if [ -n "$missing" ]; then
  if [ "$(id -u)" -ne 0 ] || ! has apt-get; then
    echo "tests/clients needs what is not on the path, and only root on Debian installs it here: $missing" >&2
    exit 1
  fi
  echo "Installing $missing (once) ..."
  apt-get update -qq
  # $missing is a list of words.
  # shellcheck disable=SC2086
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi
node -e 'const v = process.versions.node; if (parseInt(v) < 20) { console.error(`tests/clients needs Node 20 or newer, this is ${v}`); process.exit(1); }'
if ! [ node_modules/.package-lock.json -nt package-lock.json ]; then npm ci --ignore-scripts --no-progress --loglevel=error; fi
