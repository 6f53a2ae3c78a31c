# shellcheck shell=bash
# What this machine needs to build, run and test Crossdock, and how it gets there. Sourced by the scripts, runs nothing.
#
# install_packages GROUP...   build | run | test | bench | nic | ci: asks for each thing itself (a command, a library), and only
#                             when one is missing calls apt, so that a machine which has everything needs no network.
# find_cargo                  puts a cargo that is new enough on PATH, or says how to get one.
# target_directory            where cargo builds; give_back DIRECTORY returns what root built there to the checkout's owner.

# One line per need: groups, the probe, the Debian/Ubuntu package. libdpdk-dev depends on every DPDK driver package
# (librte-net-*, librte-mempool-ring, ...), which are plugins loaded at run time, so no version number is needed here.
needs() {
  cat <<'TABLE'
build                command:cc                 gcc
build                header:stdlib.h            libc6-dev
build,run,test,bench command:pkg-config         pkg-config
build                libclang                   libclang-dev
build,run,test,bench module:libdpdk             libdpdk-dev
build,run,test       command:jq                 jq
run,test             command:ip                 iproute2
run,test             command:sysctl             procps
run,test             command:ethtool            ethtool
run,test             command:nft                nftables
run,test             command:nginx              nginx
run,test             command:curl               curl
run,test             command:wrk                wrk
run,test             command:ping               iputils-ping
run,test             command:arping             iputils-arping
test                 command:clang              clang
test                 command:dnsmasq            dnsmasq-base
test                 command:openssl            openssl
test                 python:grpc                python3-grpcio
test                 command:/usr/lib/usrsctp/tsctp libusrsctp-examples
test                 command:promtool           prometheus
test                 command:socat              socat
test                 command:strace             strace
test                 command:systemd-analyze    systemd
test                 command:tcpdump            tcpdump
test                 command:tshark             tshark
test                 command:valgrind           valgrind
test,bench           command:dpdk-testpmd       dpdk-dev
test,bench,nic       command:python3            python3
nic                  command:qemu-system-x86_64 qemu-system-x86
nic                  command:busybox            busybox-static
nic                  command:cpio               cpio
nic                  command:depmod             kmod
nic                  command:dpkg-deb           dpkg
nic                  command:strip              binutils
ci                   command:shellcheck         shellcheck
TABLE
}

# True when what the probe names is here.
probe() {
  case $1 in
    command:*) command -v "${1#command:}" >/dev/null ;;
    module:*) command -v pkg-config >/dev/null && pkg-config --exists "${1#module:}" ;;
    # Of the system's Python, which is what apt installs for.
    python:*) [[ -x /usr/bin/python3 ]] && /usr/bin/python3 -c "import ${1#python:}" 2>/dev/null ;;
    header:*) [[ -e /usr/include/${1#header:} ]] ;;
    # The library alone is not enough for bindgen: clang's own headers come in another package.
    libclang)
      compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null &&
        compgen -G '/usr/lib/llvm-*/lib/clang/*/include/stddef.h' >/dev/null
      ;;
  esac
}

# The packages of GROUP... whose probe fails, one a line.
missing_packages() {
  local groups probe package group
  while read -r groups probe package; do
    for group in "$@"; do
      if [[ ,$groups, == *,$group,* ]] && ! probe "$probe"; then
        echo "$package"
        break
      fi
    done
  done < <(needs)
}

install_packages() {
  # Root's tools must be found even where sudo or su left a plain user's PATH.
  PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
  local missing
  mapfile -t missing < <(missing_packages "$@")
  if ((${#missing[@]} > 0)); then
    install_with_apt "${missing[@]}"
    mapfile -t missing < <(missing_packages "$@")
    ((${#missing[@]} == 0)) || die "installed, but still not found: ${missing[*]}"
  fi
  require_dpdk_version
}

install_with_apt() {
  command -v apt-get >/dev/null ||
    die "missing: $*. Only Debian and Ubuntu are installed to automatically; here please install them by hand"
  [[ $EUID == 0 ]] || die "missing packages: run as root, or: sudo apt-get install $*"
  echo "installing: $*" >&2
  local log
  log=$(mktemp)
  # The package lists may be old or absent (containers); only then is a refresh worth its time.
  if ! apt_install "$@" >"$log" 2>&1 && ! { apt-get -q update && apt_install "$@"; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    rm -f "$log"
    die "apt-get could not install: $*"
  fi
  rm -f "$log"
}

# Installs without starting services: nginx's package would open port 80 of this host, which is not ours to open.
# Debian asks /usr/sbin/policy-rc.d before a package starts anything; 101 means no.
apt_install() (
  policy=/usr/sbin/policy-rc.d
  if [[ ! -e $policy ]]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
  fi
  had=$(command -v nginx prometheus || true)
  DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "$@" || exit 1
  # ... and it shall not start at the next boot either.
  for service in nginx prometheus; do
    if [[ $had != *"/$service"* && -d /run/systemd/system ]] && command -v "$service" >/dev/null; then
      systemctl --quiet disable "$service.service" || true
    fi
  done
)

require_dpdk_version() {
  pkg-config --atleast-version=22.11 libdpdk ||
    die "DPDK $(pkg-config --modversion libdpdk) is too old, 22.11 or newer is needed: Debian 12, Ubuntu 24.04 or later have it"
}

# Cargo of at least the workspace's rust-version. Under sudo it is usually the caller's: root uses that toolchain, but
# its own CARGO_HOME, so that no file of root's appears in the caller's.
find_cargo() {
  local wanted found home
  wanted=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' "$TOP/Cargo.toml")
  home=$(getent passwd "${SUDO_USER:-root}" | cut -d: -f6)
  PATH=$HOME/.cargo/bin:$home/.cargo/bin:$PATH
  if [[ ! -d ${RUSTUP_HOME:-$HOME/.rustup} && -d $home/.rustup ]]; then
    export RUSTUP_HOME=$home/.rustup
  fi
  if ! found=$(cargo --version 2>/dev/null | cut -d' ' -f2) || [[ -z $found ]]; then
    die "cargo is missing. Rust $wanted or newer is needed: $(rustup_advice)"
  fi
  [[ $(printf '%s\n' "$wanted" "${found%%-*}" | sort -V | head -n 1) == "$wanted" ]] ||
    die "cargo $found is too old. Rust $wanted or newer is needed: $(rustup_advice)"
}

rustup_advice() {
  if command -v rustup >/dev/null; then
    echo "rustup update stable"
  else
    echo "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh  (the distribution's rustc is older)"
  fi
}

target_directory() {
  (cd "$TOP" && cargo metadata --no-deps --format-version 1 | jq -r .target_directory)
}

# What root built goes back to the owner of the checkout, so that a later build without sudo works.
give_back() {
  if [[ $EUID == 0 && $1 == "$TOP"/* && -d $1 ]]; then
    chown -R --reference="$TOP" "$1"
  fi
}

require_root() {
  [[ $EUID == 0 ]] || die "must run as root (network namespaces, raw sockets): sudo $0"
}

die() {
  echo "${0##*/}: $*" >&2
  exit 1
}
