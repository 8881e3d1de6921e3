# Sourced by bootstrap: the system that `make verify-arm` emulates, in .venv/arm. It needs no rights of root, and changes
# nothing of the system's own packages:
#   qemu-aarch64   the emulator, of Debian 13: LiteRT and ONNX Runtime crash in older ones
#   root/          Debian's Python for ARM, with the libraries that it needs
#   packages/      the builds for ARM of the runtimes, at the versions and hashes of requirements.lock

ARM_MB=400
DEBIAN=trixie
RUNTIMES_FOR_ARM="ai-edge-litert flatbuffers ml-dtypes numpy onnxruntime"

arm_system() {
  local made=.venv/arm.partial
  [ "$(uname -sm)" = "Linux x86_64" ] ||
    fail "\`make verify-arm\` emulates ARM on Linux on x86_64, and this is $(uname -sm). On an ARM machine run \`make verify\`: it compares the answers on that processor itself."
  command -v apt-get >/dev/null && command -v dpkg >/dev/null ||
    fail "apt-get and dpkg are missing: the emulator and a Python for ARM come from Debian's packages. Run \`make verify-arm\` on Debian 12 or later, or in a container of it."
  need_disk "$ARM_MB" "The emulated ARM system (.venv/arm)"
  rm -rf "$made" && mkdir -p "$made/root"
  arm_packages "$made"
  arm_runtimes "$made"
  rm -rf .venv/arm && mv "$made" .venv/arm
  echo "The emulated ARM system is in .venv/arm: $(du -sm .venv/arm | cut -f1) MB."
}

# arm_packages FOLDER: the emulator and Python, with a configuration of apt of its own, from the mirror that apt uses already.
arm_packages() {
  local made=$1 apt=$PWD/$1/apt keys=/usr/share/keyrings/debian-archive-keyring.gpg mirror archive
  mirror=$(debian_mirror)
  if [ -z "$mirror" ] && [ "$(id -u)" = 0 ]; then
    apt-get update -qq || true
    mirror=$(debian_mirror)
  fi
  [ -n "$mirror" ] ||
    fail "apt knows no mirror of Debian, which the emulator comes from: expected one in its sources. Run: sudo apt-get update. On another system run \`make verify-arm\` in a container of Debian."
  [ -e "$keys" ] || need_package debian-archive-keyring "Debian's keys"
  mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$apt/none" && : >"$apt/status"
  echo "deb [signed-by=$keys] $mirror $DEBIAN main" >"$apt/sources"
  cat >"$apt/configuration" <<END
APT::Architecture "arm64";
APT::Architectures { "arm64"; "amd64"; };
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Debug::NoLocking "true";
Dir::State "$apt";
Dir::State::status "$apt/status";
Dir::Cache "$apt";
Dir::Etc::SourceList "$apt/sources";
Dir::Etc::SourceParts "$apt/none";
END
  echo "Downloading an emulator and a Python for ARM from Debian's packages: 90 MB."
  if ! { of_debian update && of_debian install --download-only --yes python3-minimal libpython3-stdlib libstdc++6 &&
    (cd "$apt/archives" && of_debian download qemu-user:amd64); } >"$apt/log" 2>&1; then
    grep '^[EW]:' "$apt/log" >&2 || cat "$apt/log" >&2
    fail "apt-get could not download packages of Debian $DEBIAN for arm64, or its qemu-user: its message is above. Expected both on the mirror that apt uses. Is it reachable, and does it have arm64? Then run the same command again."
  fi
  for archive in "$apt"/archives/*.deb; do
    case $archive in
      */qemu-user_*) dpkg --fsys-tarfile "$archive" | tar -x -C "$made" --strip-components=3 ./usr/bin/qemu-aarch64 ;;
      *) dpkg --extract "$archive" "$made/root" ;;
    esac
  done
  [ -e "$made/root/lib" ] || ln -s usr/lib "$made/root/lib" # a package that is not taken makes this link
  rm -rf "$apt" "$made"/root/usr/share/{doc,locale,man}
}

debian_mirror() {
  apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' 2>/dev/null | sort -u | head -1
}

of_debian() { APT_CONFIG=$apt/configuration apt-get --quiet=2 "$@"; }

# arm_runtimes FOLDER: the runtimes for ARM, which have to be importable there.
arm_runtimes() {
  local made=$1 python wheel name
  python=$(basename "$(ls -d "$made"/root/usr/bin/python3.* | head -1)")
  for name in $RUNTIMES_FOR_ARM; do
    sed -n "/^$name==/,/[^\\\\]\$/p" requirements.lock
  done >"$made/requirements"
  echo "Downloading the runtimes for ARM: 50 MB."
  quietly arm .venv/bin/python -m pip download "${QUIET[@]}" --no-deps --require-hashes --only-binary=:all: \
    --platform manylinux2014_aarch64 $(printf -- '--platform manylinux_2_%s_aarch64 ' $(seq 17 41)) \
    --implementation cp --python-version "${python#python}" --dest "$made/wheels" --requirement "$made/requirements" ||
    fail "pip could not download the runtimes for ARM: its message is above. Expected builds for aarch64 at the versions of requirements.lock. Is the package index reachable?"
  for wheel in "$made"/wheels/*.whl; do
    .venv/bin/python -m zipfile --extract "$wheel" "$made/packages"
  done
  rm -rf "$made/wheels" "$made/requirements"
  quietly arm env PYTHONPATH="$made/packages" PYTHONDONTWRITEBYTECODE=1 "$made/qemu-aarch64" -L "$made/root" \
    "$made/root/usr/bin/$python" -c 'import ai_edge_litert.interpreter, onnxruntime' ||
    fail "The emulated Python cannot import LiteRT and ONNX Runtime: its message is above. Run the same command again; if it fails again, this machine cannot run \`make verify-arm\`."
}
