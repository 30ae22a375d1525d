# shellcheck shell=bash
#
# Docker Engine 26 on Debian 12, beside the system's own and without installing it: three packages
# of the next release, unpacked into a folder. Meant to be sourced by a bash script that has
# `set -euo pipefail`.
#
#   fetch_newer_engine DIR    unpacks it under DIR, once; prints the PATH to its programs. Fails with
#                             the reason where the machine cannot have it.

# Where the machine's own packages come from, in either form of apt's files.
_debian_archive() {
  awk '/^URIs:/ { print $2; exit }' /etc/apt/sources.list.d/*.sources 2>/dev/null | grep . ||
    awk '$1 == "deb" { for (i = 2; i <= NF; i++) if ($i ~ /:\/\//) { print $i; exit } }' \
      /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null | grep .
}

fetch_newer_engine() {
  local dir=$1 archive key=/usr/share/keyrings/debian-archive-keyring.gpg package
  if [ ! -x "$dir/root/usr/sbin/dockerd" ]; then
    # shellcheck source=/dev/null
    [ "$(. /etc/os-release && echo "${VERSION_CODENAME:-}")" = bookworm ] || {
      echo "its packages fit Debian 12 only" >&2
      return 1
    }
    archive=$(_debian_archive) || {
      echo "apt's sources name no archive" >&2
      return 1
    }
    rm -rf "$dir"
    mkdir -p "$dir"/apt/{lists,cache/archives}/partial "$dir/apt/etc" "$dir/root"
    dir=$(cd "$dir" && pwd)
    : >"$dir/apt/status"
    echo "deb [signed-by=$key] $archive trixie main" >"$dir/apt/etc/sources.list"
    cat >"$dir/apt.conf" <<CONF
Dir::Etc::sourcelist "$dir/apt/etc/sources.list";
Dir::Etc::sourceparts "-";
Dir::Etc::preferencesparts "-";
Dir::State::lists "$dir/apt/lists";
Dir::State::status "$dir/apt/status";
Dir::Cache "$dir/apt/cache";
CONF
    (
      cd "$dir"
      export APT_CONFIG=$dir/apt.conf
      apt-get update -qq && apt-get download -qq docker.io containerd tini
    ) >&2 || {
      echo "its packages cannot be fetched" >&2
      return 1
    }
    for package in docker.io containerd tini; do
      dpkg -x "$dir/$package"_*.deb "$dir/root"
    done
  fi
  dir=$(cd "$dir" && pwd)
  printf '%s\n' "$dir/root/usr/bin:$dir/root/usr/sbin"
}
