#!/usr/bin/env bash
# Puts the files that every board has, and those of this one, into the root.
set -euo pipefail
root=$1
for files in "$IMAGES/shared/files" "$IMAGES/$BOARD/files"; do
  [ ! -d "$files" ] || tar -C "$files" --owner=0 --group=0 --no-same-permissions -cf - . |
    tar -C "$root" --no-overwrite-dir -xf -
done
