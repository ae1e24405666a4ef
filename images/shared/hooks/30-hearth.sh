#!/usr/bin/env bash
# Installs the release in WHEELHOUSE by the installer that any Debian gets it from, and makes of it
# what an image has beside: set up from the boot partition, starts that are counted.
set -euo pipefail
root=$1
"$IMAGES/shared/into-root.sh" "$root" "$WHEELHOUSE" \
  systemctl --quiet enable hearth-firstboot hearth-claim hearth-good-boot
: >"$root/etc/hearth/image" # what the units of an image ask for

# pip's byte code goes by the times of files, which an image sets, and Debian's, made with
# SOURCE_DATE_EPOCH, has each source read and hashed at every import: both are written anew, to be
# taken as they are. A root that is only read changes neither.
release=$root/opt/hearth/$(readlink "$root/opt/hearth/current")
library=$root/usr/lib/python3.11
find "$release" "$library" -name __pycache__ -prune -exec rm -r {} +
"$PYTHON" -m compileall -q -j 1 --invalidation-mode unchecked-hash -s "$root" \
  "$release/lib" "$library"
