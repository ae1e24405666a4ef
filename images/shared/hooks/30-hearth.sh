#!/usr/bin/env bash
# Installs Hearth's wheels as a release, as the installer lays it out; no program of the root runs.
set -euo pipefail
root=$1
wheel=$(ls "$WHEELHOUSE"/wheels/hearth-*.whl | head -1)
version=$(basename "$wheel" | cut -d- -f2)
release=/opt/hearth/releases/$version
python=$(basename "$(readlink -f "$root/usr/bin/python3")")
library=$release/lib/$python/site-packages

# --target leaves the programs of other packages in a bin/ of its own: only ours is wanted.
"$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --disable-pip-version-check \
  --no-warn-conflicts --root-user-action=ignore --only-binary :all: --python-version 3.11 \
  $(case $ARCH in amd64) m=x86_64 ;; arm64) m=aarch64 ;; esac
    for tag in manylinux_2_34 manylinux_2_28 manylinux_2_17 manylinux2014 linux; do
      printf -- '--platform %s_%s ' "$tag" "$m"
    done) \
  --implementation cp --abi cp311 --abi abi3 --abi none \
  --target "$root$library" "$WHEELHOUSE"/wheels/*.whl
rm -rf "${root:?}$library/bin"
find "$root$library" -name direct_url.json -delete # the builder's paths are nobody's business
# The root is read-only, so byte code is written now; by content, so that times do not matter.
"$PYTHON" -m compileall -q -j 1 --invalidation-mode unchecked-hash -s "$root" "$root$library"

mkdir -p "$root$release/bin"
ln -s "/usr/bin/$python" "$root$release/bin/python3"
printf 'home = /usr/bin\ninclude-system-site-packages = false\n' >"$root$release/pyvenv.cfg"
cat >"$root$release/bin/hearth" <<END
#!$release/bin/python3
from appliance.cli.main import main

main()
END
chmod 0755 "$root$release/bin/hearth"
ln -sfn "releases/$version" "$root/opt/hearth/current"
ln -sfn /opt/hearth/current/bin/hearth "$root/usr/bin/hearth"
