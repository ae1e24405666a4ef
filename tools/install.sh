#!/usr/bin/env bash
# Installs Hearth on a Debian or Ubuntu (amd64, arm64), from a wheelhouse without any network, or
# from a source tree with one.
#
#   install.sh [--wheelhouse DIR]   install, or update to, the release in DIR (default: this folder;
#                                   in a source tree: one that is built for it, from the network)
#   install.sh --rollback           back to the release before
#   install.sh --uninstall          remove everything, models and keys too
#     --keep-state                  ... but not /var/lib/hearth, /etc/hearth and their user
#   install.sh --settle             at a boot: end an update that a power cut interrupted
#
#     --root DIR      into the folder of another system (an image); nothing is started
#     --dry-run       say what would be done, do nothing
#     --wait SECONDS  how long a new release may take to answer (default: 120)
#
# Releases lie side by side in /opt/hearth/releases; `current` and `previous` are links. A release is
# built under another name and renamed when it is whole; `current` changes by one rename; the new
# release must answer, else the one before is put back. After a power cut between any two steps the
# machine boots with a whole release. Exit status: 0 done, 1 refused or failed, 2 wrong usage.
set -euo pipefail
umask 022
here=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
for part in say checks build units switch remove; do
  # shellcheck source=/dev/null
  . "$here/install/$part.sh"
done

verb=install
wheelhouse=
root=
dry_run=
keep_state=
wait_s=120

usage() {
  sed -n '2,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p}' "$here/install.sh" >&2
  exit 2
}

needs_value() {
  [ $# -ge 2 ] || { printf 'hearth: %s needs a value\n' "$1" >&2; exit 2; }
}

parse() {
  while [ $# -gt 0 ]; do
    case $1 in
      --wheelhouse | --root | --wait) needs_value "$@" ;;&
      --wheelhouse) wheelhouse=$2; shift ;;
      --root) root=$2; shift ;;
      --wait) wait_s=$2; shift ;;
      --rollback | --uninstall | --settle) verb=${1#--} ;;
      --keep-state) keep_state=yes ;;
      --dry-run) dry_run=yes ;;
      *) usage ;;
    esac
    shift
  done
  [[ $wait_s =~ ^[1-9][0-9]{0,4}$ ]] || { printf 'hearth: --wait takes seconds\n' >&2; exit 2; }
  if [ -n "$root" ]; then
    [ -d "$root/usr" ] || refuse "$root is not the folder of a system: give --root the top of one"
    root=$(cd "$root" && pwd)
    [ "$root" != / ] || root=
  fi
  opt=$root/opt/hearth
}

# The release to install: the one that was named, this folder, or one built from this source tree.
find_wheelhouse() {
  if [ -z "$wheelhouse" ] && [ -e "$here/RELEASE" ] && [ -d "$here/wheels" ]; then
    wheelhouse=$here
  fi
  if [ -n "$wheelhouse" ]; then
    [ -d "$wheelhouse" ] ||
      refuse "$wheelhouse is not a folder: unpack the file, or make one with tools/wheelhouse"
    wheelhouse=$(cd "$wheelhouse" && pwd)
    return
  fi
  [ -x "$here/wheelhouse" ] ||
    refuse "there is no release here: give --wheelhouse DIR (tools/wheelhouse makes one)"
  step "build a release from this source tree, with packages from the network (minutes)"
  if planned; then exit 0; fi
  scratch=$(mktemp -d)
  wheelhouse=$("$here/wheelhouse" --native --out "$scratch") ||
    refuse "the release could not be built (see above); nothing was installed"
}

install() {
  check_privilege
  check_system
  find_wheelhouse
  check_wheelhouse
  check_machine
  choose_python
  check_space
  check_state
  lock
  build_release
  switch_to "$name"
}

main() {
  parse "$@"
  trap on_exit EXIT
  case $verb in
    install) install ;;
    rollback) roll_back ;;
    settle) settle ;;
    uninstall) uninstall ;;
  esac
}

main "$@"
exit
