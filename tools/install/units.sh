# Units, account and the command: copied from the current release, listed in /opt/hearth/files.
# shellcheck shell=bash

# Folder of the release -> folder of the system.
unit_folders() {
  cat <<'EOF'
systemd /etc/systemd/system
systemd/sysusers.d /etc/sysusers.d
systemd/tmpfiles.d /etc/tmpfiles.d
systemd/system-preset /etc/systemd/system-preset
systemd/journald.conf.d /etc/systemd/journald.conf.d
systemd/system.conf.d /etc/systemd/system.conf.d
systemd/timesyncd.conf.d /etc/systemd/timesyncd.conf.d
EOF
}

# Lines `source target`, relative to the release and to the system.
unit_files() {
  local from to each
  while read -r from to; do
    for each in "$opt/current/$from"/*; do
      case ${each##*/} in
        *.rules) printf '%s %s\n' "$from/${each##*/}" "/etc/udev/rules.d/${each##*/}" ;;
        *.service | *.socket | *.timer | *.path | *.conf | *.preset)
          printf '%s %s\n' "$from/${each##*/}" "$to/${each##*/}" ;;
      esac
    done
  done < <(unit_folders)
  for each in $(drop_ins); do drop_in_file hearth.service "$each"; done
  if has_vcio; then drop_in_file hearth-health.service vcio.conf; fi
}

drop_in_file() { # unit $1, drop-in $2: its line, if the release has it
  if [ -e "$opt/current/systemd/drop-ins/$2" ]; then
    printf 'systemd/drop-ins/%s /etc/systemd/system/%s.d/%s\n' "$2" "$1" "$2"
  fi
}

# What this kind of box needs beside the units (systemd/README.md).
drop_ins() {
  local systemd
  systemd=$(in_root systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
  if [ "$systemd" -ge 254 ]; then printf 'systemd-254.conf\n'; fi
  if [ -e "$root/etc/nv_tegra_release" ]; then
    printf 'gpu-jetson.conf\n'
  elif [ -z "$root" ] && [ -e /dev/nvidiactl ]; then
    printf 'gpu-nvidia.conf\n'
  elif [ -z "$root" ] && [ -e /dev/dri/renderD128 ]; then
    printf 'gpu-drm.conf\n'
  fi
  if has_board_led; then printf 'leds.conf\n'; fi
}

# A Raspberry Pi or a Jetson; in a folder they are known by their boot partition or release file.
has_board_led() {
  if [ -n "$root" ]; then
    [ -d "$root/boot/firmware" ] || [ -e "$root/etc/nv_tegra_release" ]
    return
  fi
  local each
  for each in leds gpio-leds pwr-led; do
    if [ -d "/sys/devices/platform/$each" ]; then return 0; fi
  done
  return 1
}

# A Raspberry Pi, whose firmware is asked through this device; in a folder as above.
has_vcio() {
  if [ -n "$root" ]; then [ -d "$root/boot/firmware" ]; else [ -e /dev/vcio ]; fi
}

# The list is written first: an uninstall after a power cut finds whatever was copied.
install_units() {
  local from to before
  before=$(cat "$opt/files" 2>/dev/null || true)
  unit_files | cut -d ' ' -f 2 >"$opt/.files.new"
  printf '/usr/local/bin/hearth\n' >>"$opt/.files.new"
  printf '%s\n' "$before" | cat - "$opt/.files.new" | sed '/^$/d' | sort -u >"$opt/.files.all"
  mv -T "$opt/.files.all" "$opt/files"
  while read -r from to; do
    put "$opt/current/$from" "$root$to"
  done < <(unit_files)
  mkdir -p "$root/usr/local/bin" "$root/etc/hearth"
  ln -sfn /opt/hearth/current/bin/hearth "$root/usr/local/bin/hearth"
  pin_key
  remove_old_units "$before"
  mv -T "$opt/.files.new" "$opt/files"
  create_account
  if [ -z "$root" ]; then
    systemctl daemon-reload
    # A container has no udev. The board's LED is there already: its rule has to be told so.
    udevadm control --reload 2>/dev/null || true
    udevadm trigger --subsystem-match=leds --action=change 2>/dev/null || true
  fi
  enable_units "$before"
  if [ -z "$root" ]; then systemd-tmpfiles --create --prefix=/var/lib/hearth --prefix=/run/hearth; fi
}

create_account() {
  local said
  said=$(in_root systemd-sysusers 2>&1) || refuse "the account could not be made: $said"
}

# A file appears whole, by a rename.
put() {
  mkdir -p "$(dirname "$2")"
  cp "$1" "$2.new"
  chmod 644 "$2.new"
  mv -T "$2.new" "$2"
}

# What the release before had and this one has not.
remove_old_units() {
  local each
  while read -r each; do
    if [ -n "$each" ] && ! grep -qxF "$each" "$opt/.files.new"; then
      disable_unit "$each"
      rm -f "$root$each"
    fi
  done <<<"$1"
}

disable_unit() {
  case $1 in
    *@.*) ;;
    /etc/systemd/system/*) in_root systemctl --quiet disable "${1##*/}" 2>/dev/null || true ;;
  esac
}

# Enable what the presets name and is new on this machine; what somebody disabled stays so.
enable_units() {
  local each wanted=()
  for each in $(sed -n 's/^enable //p' "$opt"/current/systemd/system-preset/*.preset); do
    if [ -e "$root/etc/systemd/system/$each" ] && ! grep -qxF "/etc/systemd/system/$each" <<<"$1"; then
      wanted+=("$each")
    fi
  done
  if [ ${#wanted[@]} -gt 0 ]; then in_root systemctl --quiet enable "${wanted[@]}" 2>/dev/null; fi
}

# The first release that is installed says whose signature later ones need.
pin_key() {
  local key=$opt/current/release.pub
  if [ -e "$key" ] && [ ! -e "$root/etc/hearth/release.pub" ]; then
    put "$key" "$root/etc/hearth/release.pub"
  fi
}

# Units that run by themselves beside the service.
helpers() {
  local each
  while read -r each; do
    case $each in
      *@.*) ;;
      /etc/systemd/system/*.timer | /etc/systemd/system/*.path) printf '%s\n' "${each##*/}" ;;
    esac
  done <"$opt/files"
}

restart_service() {
  step "start the service"
  systemctl --quiet stop hearth.service 2>/dev/null || true # connections wait at the socket
  systemctl reset-failed hearth.service 2>/dev/null || true # and crashes count anew
  systemctl start hearth.socket
  systemctl start --no-block hearth.service
  start_helpers
}

start_helpers() {
  local each
  for each in $(helpers); do
    if systemctl --quiet is-enabled "$each" 2>/dev/null; then systemctl start --no-block "$each"; fi
  done
}

# After a second run on the same release: nothing is restarted that runs.
begin_service() {
  local name reason
  name=$(release_of current)
  if [ -n "$root" ] || planned; then
    say "Hearth $name is installed already"
    return
  fi
  if ! systemctl --quiet is-active hearth.service; then
    check_port
    restart_service
  fi
  step "wait until Hearth $name answers (at most $wait_s s)"
  reason=$(gate) || refuse "Hearth $name does not answer (${reason##*$'\n'}): see journalctl -u hearth"
  say "Hearth $name was installed already and serves on port $port: $reason"
}
