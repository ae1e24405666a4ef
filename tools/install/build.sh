# A release: a virtual environment made from the wheelhouse, whole before it has its name.
# shellcheck shell=bash

releases=/opt/hearth/releases

# Sets `name`, the release's folder: its version, or, where another build of that version lies,
# with a part of its hash.
choose_name() {
  local sums
  sums=$(sha256sum <"$wheelhouse/SHA256SUMS")
  name=$version
  if [ -e "$opt/releases/$name" ] && ! is_built; then name=$version+${sums:0:8}; fi
}

is_built() { cmp -s "$wheelhouse/SHA256SUMS" "$opt/releases/$name/SHA256SUMS"; }

build_release() {
  choose_name
  if is_built; then
    say "release $name is here already"
    return
  fi
  step "build release $name in $releases"
  if planned; then return; fi
  building=$opt/releases/.new-$name
  rm -rf "$building"
  mkdir -p "$building"
  bring_interpreter
  make_environment
  add_installer
  step "check that release $name runs"
  run_once
  settle_paths # after the run: an own interpreter is found by its path
  step "make release $name durable"
  sync -f "$building"
  mv -T "$building" "$opt/releases/$name"
  building=
  sync -f "$opt/releases"
}

bring_interpreter() {
  [ -n "$archive" ] || return 0
  mkdir "$building/python"
  tar -xf "$archive" -C "$building/python" --strip-components 1 --no-same-owner
  python=$releases/.new-$name/python/bin/$python
}

# pip runs from its wheel: the system needs none, nor the package python3-venv.
make_environment() {
  local inside=$releases/.new-$name source=$wheelhouse
  in_root "$python" -I -m venv --without-pip "$inside" ||
    refuse "Python cannot make a virtual environment: apt-get install --reinstall python3"
  if [ -n "$root" ]; then # what a chroot can see
    mkdir "$building/.from"
    cp -R "$wheelhouse/wheels" "$wheelhouse/bootstrap" "$wheelhouse/requirements.txt" \
      "$building/.from"
    source=$inside/.from
  fi
  in_root env -i PATH=/usr/bin:/bin LC_ALL=C.UTF-8 PIP_CONFIG_FILE=/dev/null \
    "$inside/bin/python" "$(pip_of "$source")/pip" --quiet --disable-pip-version-check install \
    --no-index --find-links "$source/wheels" --require-hashes --no-deps --no-cache-dir \
    --no-input --root-user-action ignore --requirement "$source/requirements.txt" ||
    refuse "the packages could not be installed (see above); nothing was switched"
  rm -rf "$building/.from"
}

pip_of() {
  local files=("$wheelhouse"/bootstrap/pip-*.whl)
  printf '%s/bootstrap/%s' "$1" "${files[0]##*/}"
}

# Scripts and settings name the folder that they were made in; let them name the one to come.
settle_paths() {
  local file
  rm -f "$building"/bin/[Aa]ctivate*
  for file in "$building"/bin/* "$building/pyvenv.cfg"; do
    if [ ! -L "$file" ]; then sed -i "s|$releases/\.new-$name|$releases/$name|g" "$file"; fi
  done
  if [ -n "$archive" ]; then
    for file in "$building"/bin/python*; do
      if [ -L "$file" ] && [[ $(readlink "$file") == /* ]]; then
        ln -sfn "../python/bin/$(basename "$(readlink "$file")")" "$file"
      fi
    done
  fi
}

add_installer() {
  local each
  for each in install.sh install systemd RELEASE SHA256SUMS; do
    cp -R "$wheelhouse/$each" "$building/"
  done
  if [ -e "$wheelhouse/release.pub" ]; then cp "$wheelhouse/release.pub" "$building/"; fi
}

# All libraries load here. What only the running service can show is the gate's business.
run_once() {
  local inside=$releases/.new-$name said
  said=$(in_root env -i PATH=/usr/bin:/bin "$inside/bin/python" -I -B -c '
import appliance.service, engine.llama.native, sys
from importlib.metadata import version
engine.llama.native.start()
sys.exit(version("hearth") != sys.argv[1])' "$version" 2>&1) ||
    refuse "release $name does not run here (${said##*$'\n'}); nothing was switched"
}
