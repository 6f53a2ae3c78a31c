# shellcheck shell=bash
# QEMU's command line for scripts/nic-lab: a machine with two NICs of one kind, on TAPs in the director's namespace of a
# lab. Sourced, runs nothing. Needs lab.sh and guest.sh.
#
#   client --front-- [bridge - TAP]--- NIC 0000:00:10.0 -+
#                                                        +- crossdock, in the guest
#   switch --back--- [bridge - TAP]--- NIC 0000:00:11.0 -+

# The NICs' places on the guest's root bus, and with them their PCI addresses.
declare -A QEMU_SLOTS=([front]=10 [back]=11)
# For the mbufs of four workers on two ports, and their flow tables.
QEMU_MEMORY_MIB=1280
QEMU_HUGE_PAGES=288

# qemu_address SIDE
qemu_address() {
  echo "0000:00:${QEMU_SLOTS[$1]}.0"
}

# qemu_wire SIDE QUEUES: a TAP for QEMU in the director's namespace, bridged with the lab's cable of that name. The TAP
# of several queues can have but one name and one QEMU; that of one queue must not be made for several.
qemu_wire() {
  local side=$1 namespace=$LAB_NAME-director flags=()
  (($2 == 1)) || flags=(multi_queue)
  ip -n "$namespace" tuntap add "nic-$side" mode tap "${flags[@]}"
  ip -n "$namespace" link add "wire-$side" type bridge stp_state 0 mcast_snooping 0
  ip -n "$namespace" link set "$side" master "wire-$side"
  ip -n "$namespace" link set "nic-$side" master "wire-$side"
  ip -n "$namespace" link set "nic-$side" up
  ip -n "$namespace" link set "wire-$side" up
}

# qemu_command KIND DRIVER WORKERS SHARE: the words of the command in QEMU_COMMAND.
qemu_command() {
  local kind=$1 driver=$2 workers=$3 share=$4 kernel_arguments
  kernel_arguments="console=ttyS0 quiet panic=-1 no_timer_check hugepages=$QEMU_HUGE_PAGES"
  QEMU_COMMAND=(nice qemu-system-x86_64 -accel "tcg,thread=multi" -cpu max -smp "$((workers + 1))"
    -m "$QEMU_MEMORY_MIB" -display none -serial stdio -monitor none -no-reboot -nodefaults)
  case $driver in
    # The IOMMU before the devices: QEMU looks for it when it makes them. caching-mode: the guest's driver tells of
    # every mapping, which is how QEMU keeps what DPDK asks of vfio. 48 bits: DPDK's addresses have 47.
    vfio-pci)
      QEMU_COMMAND+=(-machine "q35,kernel-irqchip=split" -device "intel-iommu,intremap=on,caching-mode=on,aw-bits=48")
      kernel_arguments+=" intel_iommu=on"
      ;;
    uio_pci_generic) QEMU_COMMAND+=(-machine q35) ;;
  esac
  QEMU_COMMAND+=(-kernel "$GUEST_KERNEL" -initrd "$GUEST_INITRAMFS" -append "$kernel_arguments"
    -virtfs "local,path=$share,mount_tag=lab,security_model=none,multidevs=forbid")
  qemu_nic front "$kind" "$driver" "$workers"
  qemu_nic back "$kind" "$driver" "$workers"
}

# qemu_nic SIDE KIND DRIVER WORKERS
qemu_nic() {
  local side=$1 kind=$2 driver=$3 queues device
  queues=$(qemu_queues "$kind" "$4")
  device="$(qemu_device "$kind"),netdev=$side,addr=0x${QEMU_SLOTS[$side]},mac=52:54:00:00:00:${QEMU_SLOTS[$side]},romfile="
  local tap="tap,id=$side,ifname=nic-$side,script=no,downscript=no,vhost=off"
  # Behind an IOMMU a virtio device must be told to use it: by itself it reads the guest's memory as it likes.
  [[ $kind == virtio-* && $driver == vfio-pci ]] && device+=",iommu_platform=on"
  if ((queues > 1)); then
    tap+=",queues=$queues"
    # RSS in QEMU itself. A vector for each queue, the configuration and the control queue.
    device+=",mq=on,rss=on,hash=on,vectors=$((2 * queues + 2))"
  fi
  QEMU_COMMAND+=(-netdev "$tap" -device "$device")
}

# Queues of a NIC for that many workers: of QEMU's devices only virtio-net spreads packets over several.
qemu_queues() {
  case $1 in
    virtio-net) echo "$2" ;;
    *) echo 1 ;;
  esac
}

# QEMU's name for a kind, with what that kind needs.
qemu_device() {
  case $1 in
    virtio-net) echo "virtio-net-pci,disable-legacy=on" ;;
    virtio-legacy) echo "virtio-net-pci,disable-legacy=off,disable-modern=on" ;;
    *) echo "$1" ;;
  esac
}
