# Sourced by the other scripts: finds the container engine, or says what to do without one. Sourcing it changes to the
# project's folder.

cd "$(dirname "${BASH_SOURCE[0]}")/.."
export DOCKER_BUILDKIT=1

IMAGES=rosetta-serve
TARGETS=(train export serve-keras serve-torch serve-onnx serve-tflite serve-tfjs gateway)
RELEASE=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' contract/__init__.py)

fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

# find_engine: set ENGINE to a client that can build and whose engine answers: docker, else podman.
find_engine() {
  local client message
  mapfile -t clients < <(type -aP ${ENGINE:-docker podman})
  [ "${#clients[@]}" -gt 0 ] ||
    fail "There is no container engine: ${ENGINE:+no }${ENGINE:-neither docker nor podman} is on the PATH. Install one (on Debian: apt-get install docker.io), or use \`make run\`, which needs none."
  for client in "${clients[@]}"; do
    can_build "$client" && ENGINE=$client && message=$("$client" info 2>&1 >/dev/null) && return
  done
  [ -n "${message+set}" ] ||
    fail "$(${clients[0]} --version 2>&1 | head -1) cannot build: it lacks its plugin buildx. Install that (docker-buildx or docker-buildx-plugin), or use \`make run\`, which needs no engine."
  case $message in
    *ermission\ denied*) fail "You may not use the engine's socket. Run \`sudo usermod -aG docker \$USER\` and log in again, or use \`make run\`, which needs no engine." ;;
    *) fail "The engine of $ENGINE does not answer. Start it (\`sudo systemctl start docker\`), or use \`make run\`, which needs none. It says: $(tail -1 <<<"$message" | cut -c -200)" ;;
  esac
}

# can_build CLIENT: docker builds by itself up to version 22, later ones need a plugin for it.
can_build() {
  case ${1##*/} in docker*) ;; *) return 0 ;; esac
  "$1" buildx version >/dev/null 2>&1 && return
  local version
  version=$("$1" --version 2>/dev/null | sed -n 's/^Docker version \([0-9]*\)\..*/\1/p')
  [ "${version:-99}" -lt 23 ]
}
