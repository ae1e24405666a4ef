#!/usr/bin/env bash
# Takes out what differs from build to build and what no box needs twice.
set -euo pipefail
root=$1
rm -f "$root"/etc/ssh/ssh_host_*_key* "$root"/var/lib/systemd/random-seed "$root"/etc/*-
rm -f "$root"/etc/.pwd.lock "$root"/var/lib/dbus/machine-id "$root"/var/cache/ldconfig/aux-cache
rm -rf "$root"/var/cache/debconf/*-old "$root"/var/lib/dpkg/*-old
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/* "$root"/tmp/*
: >"$root/etc/machine-id" # the initramfs makes it, once per box
# Debian kept these for its own initramfs; ours is made by the builder.
rm -f "$root"/initrd.img* "$root"/vmlinuz*
find "$root" -xdev -newermt "@$SOURCE_DATE_EPOCH" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
