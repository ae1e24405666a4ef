# Removing everything that the installer, the service and its updates made.
# shellcheck shell=bash

state_folders=(/var/lib/hearth /var/cache/hearth /etc/hearth /run/hearth /var/lib/private/hearth)

uninstall() {
  local each
  check_privilege
  if [ ! -e "$opt" ]; then
    say "Hearth is not installed here"
    return
  fi
  confirm
  if ! planned; then
    exec 9>>"$opt/.lock"
    flock -n 9 || refuse "another installation is running: wait until it has ended"
  fi
  step "stop the service and remove its units"
  if ! planned; then remove_units; fi
  if [ -z "$keep_state" ]; then
    step "remove models, keys, settings and the account (--keep-state would keep them)"
    if ! planned; then remove_state; fi
  fi
  step "remove $opt"
  if planned; then return; fi
  rm -rf "$opt"
  say "Hearth is removed"
}

# A person at a terminal is asked once before models and keys go.
confirm() {
  local size answer
  if [ -n "$keep_state" ] || planned || [ ! -t 0 ]; then return; fi
  size=$(du -sh "$root/var/lib/hearth" 2>/dev/null | cut -f 1)
  printf 'hearth: remove Hearth with its models, keys and settings (%s)? [y/N] ' "${size:-nothing}"
  read -r answer
  [ "$answer" = y ] || refuse "nothing was removed"
}

remove_units() {
  local each files=()
  [ -e "$opt/files" ] || return 0
  mapfile -t files <"$opt/files"
  for each in "${files[@]}"; do
    case $each in
      *@.*) ;;
      /etc/systemd/system/*.service | *.socket | *.timer | *.path)
        if [ -z "$root" ]; then systemctl --quiet stop "${each##*/}" 2>/dev/null || true; fi
        disable_unit "$each" ;;
    esac
  done
  for each in "${files[@]}"; do
    rm -f "$root$each"
    remove_if_empty "$(dirname "$each")"
  done
  if [ -z "$root" ]; then
    systemctl daemon-reload
    systemctl reset-failed 'hearth*' 2>/dev/null || true
    rm -f /var/lib/systemd/timers/stamp-hearth*.timer
  fi
}

# Folders of ours, and those of systemd's that a bare system does not have.
remove_if_empty() {
  case $1 in
    /etc/systemd/*.d | */system-preset) rmdir "$root$1" 2>/dev/null || true ;;
  esac
}

remove_state() {
  local each
  for each in "${state_folders[@]}"; do
    # shellcheck disable=SC2115 # `each` is never empty
    rm -rf "$root$each"
  done
  if in_root getent passwd hearth >/dev/null; then in_root userdel hearth; fi
  if in_root getent group hearth >/dev/null; then in_root groupdel hearth; fi
}
