#!/usr/bin/env bash
# into-root.sh ROOT WHEELHOUSE [COMMAND...]: installs a release into the folder of another system by
# the release's own installer, then runs COMMAND there.
#
# The installer runs programs of that system, which has no devices: those that they need are lent, in
# a mount namespace that ends with them. Its programs may be another processor's, where
# qemu-user-static runs them.
set -euo pipefail
root=$1
wheelhouse=$2
shift 2
installer=$wheelhouse/install.sh

lend() {
  local each
  for each in null zero urandom; do mount --bind "/dev/$each" "$root/dev/$each"; done
  mount --rbind /proc "$root/proc"
}

if [ "${LENT:-}" != yes ]; then
  made=()
  for each in "$root"/dev/{null,zero,urandom}; do
    [ -e "$each" ] || { : >"$each" && made+=("$each"); }
  done
  trap 'rm -f "${made[@]}"' EXIT
  LENT=yes unshare --mount --propagation private bash "$0" "$root" "$wheelhouse" "$@"
  exit
fi
lend
"$installer" --root "$root" --wheelhouse "$wheelhouse"
[ $# -eq 0 ] || chroot "$root" "$@"
