# shellcheck shell=bash disable=SC2034
# The guest of scripts/nic-lab: the distribution's kernel, and an initramfs of this machine's own files. Sourced, runs nothing.
#
# There is no disk image and no second installation: the initramfs holds busybox, the kernel modules of the devices, and
# DPDK's libraries and drivers as installed here, which are those that crossdock was linked with. Crossdock itself and all
# that is written go over a directory shared by 9p. Needs install.sh.

# The package that names the newest kernel. The `cloud` kernel would be smaller, but has neither 9p nor Intel's NICs.
GUEST_KERNEL_PACKAGE=linux-image-amd64
# What guest_make leaves behind, for qemu.sh.
GUEST_KERNEL=
GUEST_INITRAMFS=
# What the guest loads: the share, the kernel's own drivers of the NICs, what takes the NICs from them, and TAPs for twins.
GUEST_MODULES=(virtio_pci 9pnet_virtio 9p virtio_net e1000 e1000e vmxnet3 uio_pci_generic vfio_pci vfio_iommu_type1 tun)
# DPDK's plugins that the guest's devices need: all of them would triple the initramfs and the time until main().
GUEST_PLUGINS=(bus_pci bus_vdev mempool_ring net_virtio net_e1000 net_vmxnet3 net_tap)

# guest_make DIRECTORY BINARY: leaves GUEST_KERNEL and GUEST_INITRAMFS, made anew only when something in them has changed.
guest_make() {
  local cache=$1 binary=$2 version
  mkdir -p "$cache"
  version=$(guest_kernel_version)
  guest_kernel "$cache" "$version"
  local root=$cache/kernel-$version
  GUEST_KERNEL=$root/boot/vmlinuz-$version
  GUEST_INITRAMFS=$cache/initramfs-$(guest_key "$version" "$binary").cpio
  [[ -e $GUEST_INITRAMFS ]] || guest_initramfs "$root" "$version" "$binary"
}

guest_kernel_version() {
  local version
  version=$(apt-cache depends "$GUEST_KERNEL_PACKAGE" 2>/dev/null | sed -n 's/.*Depends: linux-image-//p' | head -n 1)
  if [[ -z $version ]]; then
    apt-get -q update >/dev/null 2>&1 || true
    version=$(apt-cache depends "$GUEST_KERNEL_PACKAGE" 2>/dev/null | sed -n 's/.*Depends: linux-image-//p' | head -n 1)
  fi
  [[ -n $version ]] || die "no package $GUEST_KERNEL_PACKAGE: this lab is for Debian"
  echo "$version"
}

# Unpacked, not installed: an installed kernel would be the host's next one to boot. The download is done in a directory
# that apt's own user may write, and is gone when the kernel is there, so that half of one is never taken for a whole.
guest_kernel() {
  local cache=$1 version=$2 download log
  [[ ! -e $cache/kernel-$version ]] || return 0
  echo "fetching the kernel $version ..."
  download=$(mktemp -d)
  chmod 755 "$download"
  log=$cache/apt.log
  if ! (cd "$download" && { guest_download "$version" || { apt-get -q update && guest_download "$version"; }; }) >"$log" 2>&1; then
    rm -rf "$download"
    tail -n 5 "$log" >&2
    die "apt-get could not download linux-image-$version"
  fi
  rm -rf "$cache/kernel.part"
  dpkg-deb -x "$download"/linux-image-*.deb "$cache/kernel.part"
  rm -rf "$download"
  depmod -b "$cache/kernel.part" "$version"
  # Those before it are of no use any more, nor what was made of them: 400 MiB each.
  rm -rf "$cache"/kernel-* "$cache"/initramfs-*
  mv "$cache/kernel.part" "$cache/kernel-$version"
}

guest_download() {
  apt-get -q download "linux-image-$1"
}

# Names the initramfs after what goes into it: the init, this file, the kernel, and every library by size and date.
guest_key() {
  local here=${BASH_SOURCE[0]%/*}
  {
    echo "$1"
    cat "$here/init" "$here/guest.sh"
    guest_libraries "$2" | xargs stat -L -c '%n %s %Y'
  } | sha256sum | cut -c 1-16
}

# Paths of the plugins, and of the libraries that they, BINARY and busybox load; a static busybox, for which ldd fails, loads none.
guest_libraries() {
  local name plugins=() directory
  directory=$(guest_plugin_directory)
  for name in "${GUEST_PLUGINS[@]}"; do
    plugins+=("$directory/librte_$name.so")
  done
  printf '%s\n' "${plugins[@]}"
  { ldd "$1" "${plugins[@]}" "$(command -v busybox)" 2>/dev/null || true; } | sed -n 's/^[^/]*\(\/[^ :]*\) (0x.*/\1/p' | sort -u
}

# Where this DPDK looks for its drivers (RTE_EAL_PMD_PATH when it was built).
guest_plugin_directory() {
  local directory
  directory=$(compgen -G "$(pkg-config --variable=libdir libdpdk)/dpdk/pmds-*" | head -n 1)
  [[ -n $directory ]] || die "DPDK's drivers are not in $(pkg-config --variable=libdir libdpdk)/dpdk/pmds-*"
  echo "$directory"
}

guest_initramfs() {
  local kernel=$1 version=$2 binary=$3 stage file name
  echo "making the guest's initramfs ..."
  # A day old, it is of sources or libraries that are gone; a younger one may be another run's.
  find "${GUEST_INITRAMFS%/*}" -name 'initramfs-*' -mtime +0 -delete
  stage=$(mktemp -d)
  mkdir -p "$stage"/{bin,dev,lab,proc,run,sys,tmp,usr/lib/modules,usr/lib64,var/run}
  ln -s usr/lib usr/lib64 "$stage"
  cp "$(command -v busybox)" "$stage/bin/busybox"
  for name in $(busybox --list); do
    [[ $name == busybox ]] || ln -s busybox "$stage/bin/$name"
  done
  install -m 755 "${BASH_SOURCE[0]%/*}/init" "$stage/init"
  while read -r file; do
    guest_copy "$file" "$stage"
  done < <(guest_libraries "$binary")
  guest_modules "$kernel" "$version" "$stage"
  (cd "$stage" && find . -print0 | cpio --null --quiet -o -H newc -R 0:0 >"$GUEST_INITRAMFS.part")
  rm -rf "$stage"
  mv "$GUEST_INITRAMFS.part" "$GUEST_INITRAMFS"
}

# guest_copy FILE STAGE: the file where it really is, and FILE as a link to it, as here. A copy under each name would be two
# libraries to the loader, and a bus that is loaded twice registers twice.
guest_copy() {
  local real
  real=$(realpath "$1")
  mkdir -p "$2${real%/*}" "$2${1%/*}"
  [[ -e $2$real ]] || cp "$real" "$2$real"
  [[ $(realpath -m "$2$1") == "$(realpath "$2$real")" ]] || ln -sf "$real" "$2$1"
}

# The modules and what they depend on, each before who needs it, as modprobe would load them.
guest_modules() {
  local kernel=$1 version=$2 stage=$3 file
  modprobe -d "$kernel" -S "$version" --show-depends -a "${GUEST_MODULES[@]}" |
    sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++' >"$stage/modules.paths"
  while read -r file; do
    cp "$file" "$stage/usr/lib/modules/"
    echo "/lib/modules/${file##*/}"
  done <"$stage/modules.paths" >"$stage/modules.order"
  rm "$stage/modules.paths"
}
