# shellcheck shell=bash
#
# The container engine for scripts: find one, or run one that leaves nothing behind.
# Meant to be sourced by a bash script that has `set -euo pipefail`.
#
#   docker_answers            whether an engine answers at DOCKER_HOST or the default socket
#   ensure_docker_packages    installs what is missing (root on Debian/Ubuntu), else says what to do
#   start_engine DIR          an engine of our own: its socket, data and log under DIR, its network
#                             in a namespace of its own; sets DOCKER_HOST, ENGINE_NETNS, GPU_HOOK_LOG.
#                             LAB_ENGINE_PATH names folders with another engine than the system's
#   in_engine_net CMD…        runs CMD where the engine's ports are 127.0.0.1
#   stop_engine               stops it and removes all of it but DIR/dockerd.log and DIR/gpu-hook.log
#
# It works as root only, as dockerd does. Everything a script says goes to stderr.

ENGINE_PID=
ENGINE_DIR=
ENGINE_NETNS=${ENGINE_NETNS:-}

# What the engine and the tests need: Debian's package names, and the program that shows it is there.
_engine_programs='dockerd:docker.io docker:docker-cli busybox:busybox-static docker-registry:docker-registry iptables:iptables ip:iproute2 nsenter:util-linux'

_say() {
  printf '%s\n' "$*" >&2
}

docker_answers() {
  command -v docker >/dev/null || return 1
  timeout 10 docker version --format '{{.Server.Version}}' >/dev/null 2>&1
}

# Prints the packages whose programs are missing.
_missing_packages() {
  local entry
  for entry in $_engine_programs; do
    PATH=$PATH:/usr/sbin:/sbin command -v "${entry%%:*}" >/dev/null || printf '%s ' "${entry#*:}"
  done
}

ensure_docker_packages() {
  local missing wanted package
  missing=$(_missing_packages)
  [ -n "$missing" ] || return 0
  # Debian 12 and Ubuntu 24.04 have the command line tool within docker.io; later ones apart.
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    _say "Missing: ${missing}. Install Docker Engine and these, or run this as root on Debian or Ubuntu."
    return 1
  fi
  _say "Installing with apt-get: ${missing}"
  apt-get update -qq >&2
  wanted=()
  for package in $missing; do
    if [ "$package" != docker-cli ] || apt-cache show docker-cli >/dev/null 2>&1; then
      wanted+=("$package")
    fi
  done
  if [ "${#wanted[@]}" -gt 0 ]; then
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${wanted[@]}" \
      >&2 </dev/null
  fi
  missing=$(_missing_packages)
  [ -z "$missing" ] || {
    _say "Still missing after the installation: ${missing}"
    return 1
  }
}

# dockerd takes GPU requests when it finds this program on its PATH; runc then calls it with the
# container's state on stdin. It records which GPUs the container would get, and gives none.
_write_gpu_hook() {
  mkdir -p "$ENGINE_DIR/bin"
  cat >"$ENGINE_DIR/bin/nvidia-container-runtime-hook" <<HOOK
#!/bin/sh
# A stand-in for tests: one line per start, "<bundle> <UUIDs>". It has no GPU to give.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
bundle=\$(sed -n 's/.*"bundle":"\([^"]*\)".*/\1/p')
gpus=\$(grep -o '"NVIDIA_VISIBLE_DEVICES=[^"]*"' "\$bundle/config.json" | head -n 1 | tr -d '"')
printf '%s %s\n' "\$bundle" "\${gpus#*=}" >>"$ENGINE_DIR/gpu-hook.log"
HOOK
  chmod 755 "$ENGINE_DIR/bin/nvidia-container-runtime-hook"
  : >"$ENGINE_DIR/gpu-hook.log"
}

start_engine() {
  if [ "$(id -u)" != 0 ]; then
    _say "Starting a Docker Engine needs root. Start one yourself, or set DOCKER_HOST."
    return 1
  fi
  mkdir -p "$1"
  ENGINE_DIR=$(cd "$1" && pwd)
  if [ "${#ENGINE_DIR}" -gt 80 ]; then
    _say "The path of a socket is at most 108 bytes long; ${ENGINE_DIR} leaves no room for one."
    return 1
  fi
  # Two engines in one network namespace fight over docker0 and the firewall.
  ENGINE_NETNS=rental-agent-$$
  ip netns add "$ENGINE_NETNS"
  ip netns exec "$ENGINE_NETNS" ip link set lo up
  _write_gpu_hook
  echo '{}' >"$ENGINE_DIR/daemon.json" # Instead of the machine's, which may name other folders.
  # `ip netns exec` would mount /sys anew, without the cgroups that the engine needs. nsenter
  # executes dockerd in its own place, so $! is the engine.
  PATH=$ENGINE_DIR/bin:${LAB_ENGINE_PATH:+$LAB_ENGINE_PATH:}$PATH:/usr/sbin:/sbin nsenter --net="/run/netns/$ENGINE_NETNS" \
    dockerd --config-file "$ENGINE_DIR/daemon.json" \
    --data-root "$ENGINE_DIR/data" --exec-root "$ENGINE_DIR/exec" \
    --pidfile "$ENGINE_DIR/pid" -H "unix://$ENGINE_DIR/docker.sock" \
    </dev/null >"$ENGINE_DIR/dockerd.log" 2>&1 &
  ENGINE_PID=$!
  export DOCKER_HOST=unix://$ENGINE_DIR/docker.sock
  export ENGINE_NETNS GPU_HOOK_LOG=$ENGINE_DIR/gpu-hook.log
  unset DOCKER_CONTEXT DOCKER_TLS_VERIFY DOCKER_CERT_PATH
  local deadline=$((SECONDS + 60))
  until docker_answers; do
    if ! kill -0 "$ENGINE_PID" 2>/dev/null || [ "$SECONDS" -ge "$deadline" ]; then
      _say "The engine did not come up. The last of its log:"
      tail -n 5 "$ENGINE_DIR/dockerd.log" >&2
      stop_engine
      return 1
    fi
    sleep 0.2
  done
}

in_engine_net() {
  if [ -n "$ENGINE_NETNS" ]; then
    nsenter --net="/run/netns/$ENGINE_NETNS" "$@"
  else
    "$@"
  fi
}

stop_engine() {
  [ -n "$ENGINE_DIR" ] || return 0
  if [ -n "$ENGINE_PID" ]; then
    kill "$ENGINE_PID" 2>/dev/null || true
    # The engine itself allows its containers 10 s and then kills them.
    local deadline=$((SECONDS + 30))
    while kill -0 "$ENGINE_PID" 2>/dev/null && [ "$SECONDS" -lt "$deadline" ]; do
      sleep 0.1
    done
    kill -KILL "$ENGINE_PID" 2>/dev/null || true
    wait "$ENGINE_PID" 2>/dev/null || true
  fi
  local mount
  awk -v dir="$ENGINE_DIR/" 'index($2, dir) == 1 { print $2 }' /proc/mounts | sort -r |
    while read -r mount; do umount -l "$mount" 2>/dev/null || true; done
  (cd "$ENGINE_DIR" && rm -rf data exec bin docker.sock pid daemon.json)
  ip netns del "$ENGINE_NETNS" 2>/dev/null || true
  ENGINE_PID='' ENGINE_DIR='' ENGINE_NETNS=''
  unset DOCKER_HOST GPU_HOOK_LOG
}
