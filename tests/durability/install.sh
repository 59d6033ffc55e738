#!/bin/sh
# What tests/durability needs beside Python: strace. Installs it where it is missing, or says that it cannot.
set -eu

if command -v strace >/dev/null 2>&1; then exit 0; fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
  echo "tests/durability needs strace on the path, and only root on Debian installs it here" >&2
  exit 1
fi
echo "Installing strace (once) ..."
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends strace >/dev/null
