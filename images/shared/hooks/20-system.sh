#!/usr/bin/env bash
# Makes Debian an appliance: its name and version, network by DHCP, what starts and what does not.
set -euo pipefail
root=$1
units=$root/etc/systemd/system

enable() { # target, units
  local target=$1
  shift
  mkdir -p "$units/$target.wants"
  for unit; do ln -sfn "$(cd "$root" && ls -1d {etc,usr/lib}/systemd/system/"$unit" 2>/dev/null |
    head -1 | sed 's|^|/|')" "$units/$target.wants/$unit"; done
}

never() { for unit; do ln -s /dev/null "$units/$unit"; done; }

off() { for unit; do rm -f "$units"/*.wants/"$unit"; done; }

cat >>"$root/usr/lib/os-release" <<END
IMAGE_ID=hearth-$BOARD
IMAGE_VERSION=$VERSION
END
sed -i "s/^PRETTY_NAME=.*/PRETTY_NAME=\"Hearth $VERSION ($BOARD)\"/" "$root/usr/lib/os-release"
echo hearth >"$root/etc/hostname"
printf '127.0.0.1 localhost hearth\n::1 localhost hearth\n' >"$root/etc/hosts"
: >"$root/etc/fstab" # the initramfs and systemd's generator mount what there is
ln -sfn /run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
mkdir -p "$root/data" "$root/efi" "$root/var/lib/hearth" "$root/opt/hearth"
# Where a Pi's first partition appears; the installer knows a Pi's root by it.
[ ! -e "$IMAGES/$BOARD/autoboot.txt" ] || mkdir -p "$root/boot/firmware"

# One number for all versions: /var/lib/hearth outlives them. The installer finds the account made.
grep -q '^hearth:' "$root/etc/passwd" || {
  echo 'hearth:x:990:990:Hearth:/var/lib/hearth:/usr/sbin/nologin' >>"$root/etc/passwd"
  echo 'hearth:x:990:' >>"$root/etc/group"
  echo 'hearth:!*:1::::::' >>"$root/etc/shadow"
  echo 'hearth:!*::' >>"$root/etc/gshadow"
}
enable multi-user.target systemd-networkd.service systemd-resolved.service
enable sysinit.target hearth-grow.service
# The network is not waited for: the service answers as soon as there is one.
off ssh.service systemd-networkd-wait-online.service apt-daily.timer apt-daily-upgrade.timer \
  dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service
rm -f "$units"/sockets.target.wants/ssh.socket "$units/sshd.service"
enable sysinit.target hearth-trial.service
enable multi-user.target hearth-failed.service
cp "$root/usr/share/systemd/tmp.mount" "$units/" # /tmp is on the root, which is only read
enable local-fs.target tmp.mount
# Nothing of an appliance asks for these, and each costs a program at every start. The root is only
# read, so it is neither checked nor mounted anew; udev loads the drivers of what is there.
never systemd-fsck-root.service systemd-remount-fs.service kmod-static-nodes.service \
  dev-{hugepages,mqueue}.mount sys-fs-fuse-connections.mount sys-kernel-{config,debug,tracing}.mount \
  proc-sys-fs-binfmt_misc.{automount,mount} systemd-binfmt.service systemd-pstore.service \
  systemd-update-utmp{,-runlevel}.service systemd-pcrphase{,-sysinit}.service
for module in configfs dm_mod drm efi_pstore fuse loop; do never "modprobe@$module.service"; done
rm -f "$root/etc/modules" "$root/etc/modules-load.d/modules.conf" # empty, yet asked for
ln -s ../lib/hearth-os/hearth-os "$root/usr/sbin/hearth-os"
