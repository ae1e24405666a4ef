# What must hold before anything is changed; each refusal is one sentence with the cure.
# shellcheck shell=bash

oldest_systemd=249
port=11434
state_needs=32768 # KiB: the database, logs and caches of a start

check_privilege() {
  [ "$(id -u)" = 0 ] || refuse "this needs root: run it with sudo"
}

check_system() {
  local text version
  in_root true 2>/dev/null ||
    refuse "programs of $root do not run here: is it of another architecture (then install qemu-user-static)?"
  text=$(in_root systemctl --version 2>/dev/null) ||
    refuse "systemd is missing: Hearth needs systemd $oldest_systemd or newer (Debian 12, Ubuntu 22.04)"
  version=$(printf '%s\n' "$text" | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
  [ "${version:-0}" -ge "$oldest_systemd" ] ||
    refuse "systemd is $version, Hearth needs $oldest_systemd or newer: upgrade to Debian 12 or Ubuntu 22.04"
  [ -n "$root" ] || [ -d /run/systemd/system ] ||
    refuse "systemd does not run this machine: use --root DIR to install into the folder of another"
}

# All of the wheelhouse is as it was made: nothing missing, nothing changed, nothing added.
check_wheelhouse() {
  local file listed found
  for file in RELEASE SHA256SUMS requirements.txt install.sh wheels systemd; do
    [ -e "$wheelhouse/$file" ] ||
      refuse "$wheelhouse/$file is missing: this is no wheelhouse, or an incomplete copy; copy it again"
  done
  version=$(fact "$wheelhouse" version)
  step "verify the wheelhouse of Hearth $version"
  found=$(cd "$wheelhouse" && sha256sum --check --strict --quiet SHA256SUMS 2>/dev/null) ||
    refuse "the wheelhouse is damaged ($(first_line "$found")): copy it again; nothing was installed"
  listed=$(sed 's/^[0-9a-f]*  //' "$wheelhouse/SHA256SUMS" | LC_ALL=C sort)
  found=$(cd "$wheelhouse" && find . -type f ! -name SHA256SUMS ! -name SHA256SUMS.sig \
    -printf '%P\n' | LC_ALL=C sort)
  [ "$listed" = "$found" ] ||
    refuse "the wheelhouse has files that SHA256SUMS does not list: copy it again; nothing was installed"
  [[ $version =~ ^[0-9][0-9A-Za-z.+]*$ ]] ||
    refuse "the wheelhouse says it is version '$version', which is none: make it again"
}

first_line() { local line=${1%%$'\n'*}; printf '%s' "${line:-a file is missing}"; }

check_machine() {
  local wanted have
  wanted=$(fact "$wheelhouse" arch)
  have=$(in_root dpkg --print-architecture 2>/dev/null) || have=$(in_root uname -m)
  case $have in x86_64) have=amd64 ;; aarch64) have=arm64 ;; esac
  [ "$have" = "$wanted" ] ||
    refuse "this system is $have, the wheelhouse is for $wanted: take the one for $have"
  wanted=$(fact "$wheelhouse" glibc)
  have=$(in_root getconf GNU_LIBC_VERSION) && have=${have#glibc }
  [ "$(printf '%s\n' "$wanted" "$have" | sort -V | head -n 1)" = "$wanted" ] ||
    refuse "this system has glibc $have, the wheelhouse needs $wanted: make one on the older system"
}

# The interpreter that the wheelhouse brings, else one of the system that its wheels are for.
choose_python() {
  local wanted each
  archive=$(find "$wheelhouse/interpreter" -name '*.tar.*' 2>/dev/null | head -n 1) || true
  wanted=$(fact "$wheelhouse" python)
  python=
  if [ -n "$archive" ]; then python=python$wanted; return; fi
  for each in $wanted; do
    if in_root "/usr/bin/python$each" -c 'import venv' 2>/dev/null; then
      python=/usr/bin/python$each
    fi
  done
  [ -n "$python" ] ||
    refuse "the wheelhouse is for Python ${wanted// / or }, which this system lacks: apt-get install python3 if it is Debian 12 or newer, else take a wheelhouse made with --interpreter"
}

# Room for what is unpacked: wheels grow about fourfold, with the bytecode beside it; into a folder
# they are copied first.
check_space() {
  local needed free
  needed=$(($(kibibytes_to_unpack) * 4 + 65536))
  if [ -n "$root" ]; then needed=$((needed + $(du -sk "$wheelhouse/wheels" | cut -f 1))); fi
  free=$(df -Pk "$(existing "$opt")" | awk 'NR == 2 { print $4 }')
  [ "$free" -ge "$needed" ] ||
    refuse "$opt has $((free / 1024)) MiB of disk left, the release needs $((needed / 1024)) MiB: free some"
}

# What is for another Python than the chosen one stays packed.
kibibytes_to_unpack() {
  local tag=cp${python##*python}
  find "$wheelhouse" -type f -printf '%k %f\n' |
    awk -v own="-${tag/./}-" '$2 ~ /-cp3[0-9]+-cp3/ && index($2, own) == 0 { next }
      { sum += $1 } END { print sum + 0 }'
}

# The service's folder takes what a start writes.
check_state() {
  local state free
  state=$(existing "$root/var/lib/hearth")
  [ -w "$state" ] ||
    refuse "$state cannot be written (a read-only file system?): mount -o remount,rw $(mount_of "$state")"
  free=$(df -Pk "$state" | awk 'NR == 2 { print $4 }')
  [ "$free" -ge "$state_needs" ] ||
    refuse "$state has $((free / 1024)) MiB of disk left, Hearth needs $((state_needs / 1024)) MiB to start: remove models with 'hearth rm', or add storage"
}

mount_of() { df -P "$1" | awk 'NR == 2 { print $6 }'; }

existing() {
  local path=$1
  while [ ! -e "$path" ]; do path=$(dirname "$path"); done
  printf '%s' "$path"
}

# One installer at a time; the lock goes with the process.
lock() {
  if planned; then return; fi
  mkdir -p "$opt/releases" 2>/dev/null && : 2>/dev/null >"$opt/.lock" ||
    refuse "$opt cannot be written (a read-only file system?): mount -o remount,rw $(mount_of "$(existing "$opt")")"
  exec 9>"$opt/.lock"
  flock -n 9 || refuse "another installation is running: wait until it has ended"
}

# The port is free, or ours already.
check_port() {
  local owner
  if [ -n "$root" ] || systemctl -q is-active hearth.socket hearth.service; then return; fi
  owner=$(port_owner)
  [ -z "$owner" ] && return
  refuse "port $port is taken by $owner: stop it (if it is a service: systemctl disable --now ${owner%% *}) and run this again"
}

# Who listens on the port, as `name (process 12)`; empty if nobody does.
port_owner() {
  local inode link hex
  hex=$(printf '%04X' "$port")
  inode=$(awk -v hex=":$hex\$" '$2 ~ hex && $4 == "0A" { print $10 }' \
    /proc/net/tcp /proc/net/tcp6 2>/dev/null | head -n 1) || true
  [ -n "$inode" ] || return 0
  for link in /proc/[0-9]*/fd/*; do
    if [ "$(readlink "$link" 2>/dev/null)" = "socket:[$inode]" ]; then
      link=${link#/proc/}
      link=${link%%/*}
      printf '%s (process %s)' "$(cat "/proc/$link/comm")" "$link"
      return 0
    fi
  done
  printf 'another program'
}
