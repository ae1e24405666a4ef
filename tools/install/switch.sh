# From one release to another: a note, one rename, a restart, a proof, else the way back.
# shellcheck shell=bash
#
# The note is /opt/hearth/trial, "<new> <old>" ("-": none). While it exists the new release has not
# proved itself; `hearth-settle.service` sees it at a boot after a power cut and finishes the work.
# How it ended stands in /opt/hearth/last-update, for `hearth doctor` (appliance/last_update.py).

release_of() {
  local target
  target=$(readlink "$opt/$1" 2>/dev/null) || return 0
  if [ -x "$opt/$target/bin/hearth" ]; then basename "$target"; fi
}

# The release to go back to: the current one, or, while it has yet to prove itself, the one before.
proven_release() {
  local old
  if [ ! -e "$opt/trial" ]; then
    release_of current
    return
  fi
  read -r _ old <"$opt/trial"
  if [ -x "$opt/releases/$old/bin/hearth" ]; then printf '%s' "$old"; fi
}

# Point a link at a release, by one rename that is on the disk when this returns.
point() {
  ln -sfn "releases/$2" "$opt/.$1.new"
  mv -T "$opt/.$1.new" "$opt/$1"
  sync -f "$opt"
}

note_trial() {
  printf '%s %s\n' "$1" "${2:--}" >"$opt/.trial.new"
  sync "$opt/.trial.new"
  mv -T "$opt/.trial.new" "$opt/trial"
  sync -f "$opt"
}

# record RESULT NEW OLD [REASON]
record() {
  local reason=${4:-}
  printf 'at=%s\nfrom=%s\nto=%s\nresult=%s\nreason=%.500s\n' \
    "$(date +%s)" "$3" "$2" "$1" "${reason//$'\n'/ }" >"$opt/.last-update.new"
  sync "$opt/.last-update.new"
  mv -T "$opt/.last-update.new" "$opt/last-update"
}

switch_to() {
  local new=$1 old
  old=$(proven_release)
  if [ "$new" = "$old" ] && [ ! -e "$opt/trial" ]; then
    step "put units and account in place"
    if ! planned; then install_units; fi
    begin_service
    return
  fi
  check_port
  step "switch from ${old:-nothing} to $new"
  if planned; then
    step "start it, wait until it answers, else go back"
    return
  fi
  note_trial "$new" "$old"
  point current "$new"
  step "put units and account in place"
  install_units
  if [ -n "$root" ]; then
    finish "$new" "$old"
    say "Hearth $new is installed in $root"
  else
    prove "$new" "$old"
  fi
}

prove() {
  local new=$1 old=$2 reason
  restart_service
  step "wait until Hearth $new answers (at most $wait_s s)"
  if reason=$(gate); then
    record serves "$new" "$old"
    finish "$new" "$old"
    say "Hearth $new serves on port $port: $reason"
    return
  fi
  go_back "$new" "$old" "$reason"
}

# Prints how the release answered, or why it did not.
gate() {
  local python=$opt/current/bin/python
  "$python" -I -B "$opt/current/install/gate.py" "$(fact "$opt/current" version)" "$wait_s" 2>&1 ||
    return 1
}

go_back() {
  local new=$1 old=$2 reason=${3##*$'\n'}
  if [ -z "$old" ]; then
    record failed "$new" "" "$reason"
    refuse "Hearth $new does not answer ($reason), and there is no release before it: see journalctl -u hearth"
  fi
  step "go back to $old"
  point current "$old"
  install_units
  restart_service
  if gate >/dev/null; then
    record returned "$new" "$old" "$reason"
    finish "$old" "$(release_of previous)"
    refuse "Hearth $new did not prove itself ($reason), so $old is back and serves"
  fi
  record failed "$new" "$old" "$reason"
  finish "$old" "$(release_of previous)"
  refuse "Hearth $new did not prove itself ($reason); $old is back, but does not answer either: see journalctl -u hearth"
}

# The release has proved itself: keep the one before, drop the others and the note.
finish() {
  local new=$1 old=$2 each
  if [ -n "$old" ] && [ "$old" != "$new" ]; then point previous "$old"; fi
  if [ -n "$old" ]; then step "keep $new and ${old}, remove older releases"; fi
  rm -f "$opt/trial"
  for each in "$opt"/releases/* "$opt"/releases/.new-*; do
    case ${each##*/} in
      "$new" | "$(release_of previous)" | '*' | '.new-*') ;;
      *) rm -rf "$each" ;;
    esac
  done
  sync -f "$opt"
}

roll_back() {
  local previous
  check_privilege
  check_system
  previous=$(release_of previous)
  [ -n "$previous" ] || refuse "there is no release to go back to: install one with install.sh"
  lock
  switch_to "$previous"
}

settle() {
  local new old
  check_privilege
  if [ ! -e "$opt/trial" ]; then return; fi
  lock
  read -r new old <"$opt/trial"
  if [ "$old" = - ]; then old=; fi
  step "finish the update to $new, which was interrupted"
  if planned; then return; fi
  install_units
  if [ "$(release_of current)" = "$new" ]; then
    prove "$new" "$old"
    return
  fi
  record returned "$new" "$old" "the power was cut in the middle of it"
  finish "$old" "$(release_of previous)"
}
