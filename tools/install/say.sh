# What the installer says: one line for each step, one sentence for each refusal.
# shellcheck shell=bash

last_step=

step() {
  last_step=$1
  if [ -n "$dry_run" ]; then printf 'hearth: would %s\n' "$1"; else printf 'hearth: %s\n' "$1"; fi
}

say() { printf 'hearth: %s\n' "$1"; }

# Whether this run only tells what it would do.
planned() { [ -n "$dry_run" ]; }

refused=
refuse() {
  refused=yes
  printf 'hearth: %s\n' "$1" >&2
  exit 1
}

# Clean up; say where an unexpected failure (a full disk, a broken tool) stopped us.
on_exit() {
  local code=$?
  rm -rf "${scratch:-}"
  if [ -n "${building:-}" ]; then rm -rf "$building"; fi
  if [ "$code" != 0 ] && [ -z "$refused" ]; then
    printf 'hearth: failed at: %s; run it again once the cause above is gone\n' "$last_step" >&2
  fi
}

# Run a program of the system that we install into.
in_root() {
  if [ -n "$root" ]; then chroot "$root" "$@"; else "$@"; fi
}

fact() { sed -n "s/^$2=//p" "$1/RELEASE"; }
