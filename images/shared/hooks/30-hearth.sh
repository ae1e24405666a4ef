#!/usr/bin/env bash
# Installs the release in WHEELHOUSE by the installer that any Debian gets it from, and makes of it
# what an image has beside: set up from the boot partition, starts that are counted.
set -euo pipefail
root=$1
export root

# The installer runs programs of the root, which has no devices: those that they need are lent, in
# a mount namespace that ends with them.
lend='
set -euo pipefail
for each in null zero urandom; do
  : >"$root/dev/$each"
  mount --bind "/dev/$each" "$root/dev/$each"
done
mount --rbind /proc "$root/proc"
"$IMAGES/../tools/install.sh" --root "$root" --wheelhouse "$WHEELHOUSE"
chroot "$root" systemctl --quiet enable hearth-firstboot hearth-claim hearth-good-boot'
unshare --mount --propagation private bash -c "$lend"
rm -f "$root"/dev/{null,zero,urandom}
: >"$root/etc/hearth/image" # what the units of an image ask for

# pip's byte code goes by the times of files, which an image sets, and Debian's, made with
# SOURCE_DATE_EPOCH, has each source read and hashed at every import: both are written anew, to be
# taken as they are. A root that is only read changes neither.
release=$root/opt/hearth/$(readlink "$root/opt/hearth/current")
library=$root/usr/lib/python3.11
find "$release" "$library" -name __pycache__ -prune -exec rm -r {} +
"$PYTHON" -m compileall -q -j 1 --invalidation-mode unchecked-hash -s "$root" \
  "$release/lib" "$library"
