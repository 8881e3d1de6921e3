# Sourced by bootstrap and docker/install: which build of PyTorch is taken, and from where. TORCH is the requirement, such
# as torch==2.13.0; TORCH_INDEX is the address of PyTorch's own index of CPU builds.

CUDA_MB=9000

# find_torch PIP: set torch_build to
#   cpu     a CPU build that pip finds by itself: in PIP_FIND_LINKS, or on a mirror
#   index   a CPU build on TORCH_INDEX, where that answers within seconds
#   cuda    the build for CUDA, which the general package index has; it runs on a CPU, too
# Only metadata are read here. A build for CUDA requires NVIDIA's packages.
find_torch() {
  requires=$(required_by_torch "$1" 2>&1) && [ "${requires#*needs-cuda}" = "$requires" ] && torch_build=cpu && return
  if [ -n "${TORCH_INDEX:-}" ] &&
    from_index=$(required_by_torch "$1" --index-url "$TORCH_INDEX" --timeout 5 --retries 0 2>/dev/null) &&
    [ "${from_index#*needs-cuda}" = "$from_index" ]; then
    torch_build=index
    return
  fi
  case $requires in
    *needs-cuda*) torch_build=cuda ;;
    *)
      printf '%s\n' "$requires" >&2
      fail "No build of $TORCH was found: pip's message is above. Set PIP_FIND_LINKS to a folder with its wheel, or TORCH_INDEX to an index that has it."
      ;;
  esac
  free=$(df -Pm . | awk 'NR == 2 {print $4}')
  echo "Found no CPU build of $TORCH, so the build for CUDA is taken: it downloads about 3000 MB and takes $CUDA_MB MB of disk; $free MB are free."
  [ "$free" -ge "$CUDA_MB" ] ||
    fail "The CUDA build of $TORCH needs $CUDA_MB MB of disk, $free MB are free. Free some, or set TORCH_INDEX to an index of CPU builds."
}

# required_by_torch PIP ARGUMENT...: print `needs-cuda` if the build that pip would take requires NVIDIA's packages; fail
# with pip's message where there is no build at all.
required_by_torch() {
  pip=$1
  shift
  report=$("$pip" install --quiet --dry-run --ignore-installed --no-deps --report - "$@" "$TORCH") || return
  printf '%s' "$report" | "${pip%/*}/python" -c 'import json, sys
for item in json.load(sys.stdin)["install"]:
    if any(name.startswith(("nvidia", "cuda")) for name in item["metadata"].get("requires_dist") or []):
        print("needs-cuda")'
}

# torch_pip PIP ARGUMENT...: let pip install or download the build that find_torch chose. The CPU build needs nothing that
# the lock does not have; the CUDA build needs NVIDIA's packages.
torch_pip() {
  case $torch_build in
    cpu) "$@" --no-deps "$TORCH" ;;
    index) "$@" --no-deps --index-url "$TORCH_INDEX" "$TORCH" ;;
    cuda) "$@" "$TORCH" ;;
  esac
}
