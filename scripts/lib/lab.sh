# shellcheck shell=bash
# A lab network out of namespaces: a client, the director, three backends with nginx, and a switch. Sourced, runs nothing.
#
#   two arms (FullNAT)                                     one arm (DR)
#
#   client --front-- director --back-- switch -- backends  client -- switch -- backends
#      |                                 |                             |
#      +---------- eth1, direct ---------+                         director (front)
#
# In both the client also reaches the backends without the director, which is what added latency is compared with.
#
#   routed (every mode, IPv4 and IPv6)
#
#   client -- router --front-- director --back-- switch -- backends
#               |                                   |
#               +-----------------------------------+   answers that do not pass the director
#
# Everything is named xd-PID-... after the shell that made it and goes away when that shell ends: by the EXIT trap; or,
# after a SIGKILL, its children by their parent-death signal and the namespaces by the next lab's sweep.

LAB_DIRECTORY=
LAB_NAME=
LAB_CHILDREN=()
# Whether new namespaces have IPv6.
LAB_IPV6=no

# Call first. Ends the lab on every way out of the script.
lab_begin() {
  lab_sweep
  LAB_NAME=xd-$$
  LAB_DIRECTORY=$(mktemp -d "/tmp/$LAB_NAME.XXXXXX")
  trap lab_end EXIT
  # Without these three bash would end on the signal without running the EXIT trap.
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
}

# Takes away the namespaces and files of labs whose shell or test is gone. Only what is named exactly as a lab names it,
# by us: somebody else's xd-prod-1 is not ours to judge.
lab_sweep() {
  local owned
  local namespace='^xd-([0-9]+)(-[0-9]+)?-(client|director|router|switch|backend[0-9])$'
  local directory='^xd-([0-9]+)(-[0-9]+)?\.[[:alnum:]]{6}$'
  for owned in /run/netns/xd-*; do
    [[ ${owned##*/} =~ $namespace && ! -d /proc/${BASH_REMATCH[1]} ]] || continue
    ip netns delete "${owned##*/}" || true
  done
  for owned in /tmp/xd-*; do
    [[ ${owned##*/} =~ $directory && ! -d /proc/${BASH_REMATCH[1]} ]] || continue
    [[ -d $owned && ! -L $owned && -O $owned ]] || continue
    rm -rf "$owned"
  done
}

lab_end() {
  local status=$? pid name
  trap '' HUP INT TERM
  for pid in "${LAB_CHILDREN[@]}"; do
    kill -TERM "$pid" 2>/dev/null || true
  done
  for pid in "${LAB_CHILDREN[@]}"; do
    # Whoever ignores SIGTERM for five seconds is killed.
    timeout 5 tail --pid="$pid" -f /dev/null || kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  for name in /run/netns/"$LAB_NAME"-*; do
    [[ -e $name ]] && ip netns delete "${name##*/}"
  done
  rm -rf "$LAB_DIRECTORY"
  return "$status"
}

# lab_in ROLE COMMAND...: runs it in that namespace.
lab_in() {
  ip netns exec "$LAB_NAME-$1" "${@:2}"
}

# lab_start ROLE OUTPUT COMMAND...: in the background, its pid in LAB_PID, stdout in OUTPUT and stderr in OUTPUT.err.
lab_start() {
  setpriv --pdeathsig TERM ip netns exec "$LAB_NAME-$1" "${@:3}" >"$2" 2>"$2.err" &
  LAB_PID=$!
  LAB_CHILDREN+=("$LAB_PID")
}

# lab_measure ROLE OUTPUT COMMAND...: waits for it, but a signal to this shell ends the wait at once.
lab_measure() {
  local status=0
  lab_start "$@"
  wait "$LAB_PID" || status=$?
  lab_forget "$LAB_PID"
  ((status == 0)) || tail -n 20 "$2" "$2.err" >&2
  return "$status"
}

# A child that was waited for: its pid may soon be somebody else's.
lab_forget() {
  local pid kept=()
  for pid in "${LAB_CHILDREN[@]}"; do
    [[ $pid == "$1" ]] || kept+=("$pid")
  done
  LAB_CHILDREN=("${kept[@]}")
}

lab_namespace() {
  local name=$LAB_NAME-$1
  ip netns add "$name"
  ip -n "$name" link set lo up
  # No router solicitations, no duplicate address detection: what moves in the lab is what the test sent.
  if [[ $LAB_IPV6 == yes ]]; then
    lab_in "$1" sysctl -q -w net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0 \
      net.ipv6.conf.all.accept_ra=0 net.ipv6.conf.default.accept_ra=0 net.ipv6.conf.default.router_solicitations=0
  else
    # -e: where the kernel was started with ipv6.disable=1 these do not exist, and need not.
    lab_in "$1" sysctl -q -e -w net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
  fi
  lab_in "$1" sysctl -q -w net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
}

# lab_cable ROLE INTERFACE ROLE INTERFACE
lab_cable() {
  ip -n "$LAB_NAME-$1" link add "$2" type veth peer name "$4" netns "$LAB_NAME-$3"
  lab_plug "$1" "$2"
  lab_plug "$3" "$4"
}

# A veth leaves the checksum of what it sends to hardware that is not there; the kernel on the other end knows, a
# packet socket does not and would pass the unfinished checksum on. With it off, segmentation offload goes as well.
lab_plug() {
  lab_in "$1" ethtool -K "$2" tx off >/dev/null
  ip -n "$LAB_NAME-$1" link set "$2" up
}

lab_address() {
  ip -n "$LAB_NAME-$1" address add "$3" dev "$2"
}

# lab_switch_port ROLE INTERFACE
lab_switch_port() {
  lab_cable "$1" "$2" switch "$1-$2"
  ip -n "$LAB_NAME-switch" link set "$1-$2" master switch
}

lab_switch() {
  lab_namespace switch
  ip -n "$LAB_NAME-switch" link add switch type bridge stp_state 0 mcast_snooping 0
  ip -n "$LAB_NAME-switch" link set switch up
}

# lab_vlan ROLE INTERFACE OUTER INNER: the kernel tags what leaves and untags what comes in; OUTER 0 is one tag. Again: other tags.
lab_vlan() {
  local object=$LAB_DIRECTORY/vlan-$3-$4.o
  clang -O2 -target bpf "-I/usr/include/$(uname -m)-linux-gnu" "-DOUTER=$3" "-DINNER=$4" \
    -c "$(dirname "${BASH_SOURCE[0]}")/vlan.c" -o "$object"
  lab_no_vlan "$1" "$2"
  lab_in "$1" tc qdisc add dev "$2" clsact
  lab_in "$1" tc filter add dev "$2" egress bpf direct-action object-file "$object" section out
  lab_in "$1" tc filter add dev "$2" ingress bpf direct-action object-file "$object" section in
}

lab_no_vlan() {
  lab_in "$1" tc qdisc delete dev "$2" clsact 2>/dev/null || true
}

# Client 192.0.2.10, backends 10.0.0.11 to 13.
lab_two_arms() {
  local number
  lab_switch
  lab_namespace client
  lab_namespace director
  lab_cable client eth0 director front
  lab_address client eth0 192.0.2.10/24
  lab_switch_port director back
  lab_switch_port client eth1
  lab_address client eth1 10.0.0.250/24
  for number in 1 2 3; do
    lab_namespace "backend$number"
    lab_switch_port "backend$number" eth0
    lab_address "backend$number" eth0 "10.0.0.1$number/24"
  done
}

# Client 192.0.2.10, backends 192.0.2.11 to 13; each backend owns the VIP without answering ARP for it.
lab_one_arm() {
  local vip=$1 number
  lab_switch
  lab_namespace client
  lab_switch_port client eth0
  lab_address client eth0 192.0.2.10/24
  lab_namespace director
  lab_switch_port director front
  for number in 1 2 3; do
    lab_namespace "backend$number"
    lab_switch_port "backend$number" eth0
    lab_address "backend$number" eth0 "192.0.2.1$number/24"
    lab_address "backend$number" lo "$vip/32"
    lab_in "backend$number" sysctl -q -w net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2
  done
}

# Two families, and the networks 198.51.100.0/24 (client .10), 192.0.2.0/24 (front) and 10.0.0.0/24 (back, backends .11 to
# .13), in IPv6 2001:db8:c::/64, 2001:db8:1::/64 and 2001:db8:2::/64. The router is .1 of each, and everybody's gateway.
lab_routed() {
  local number
  LAB_IPV6=yes
  lab_switch
  lab_namespace client
  lab_namespace router
  lab_namespace director
  lab_in router sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.icmp_ratelimit=0
  lab_cable client eth0 router client
  lab_cable director front router front
  lab_switch_port director back
  lab_switch_port router back
  lab_address client eth0 198.51.100.10/24
  lab_address client eth0 2001:db8:c::10/64
  lab_address router client 198.51.100.1/24
  lab_address router client 2001:db8:c::1/64
  lab_address router front 192.0.2.1/24
  lab_address router front 2001:db8:1::1/64
  lab_address router back 10.0.0.1/24
  lab_address router back 2001:db8:2::1/64
  lab_gateway client 198.51.100.1 2001:db8:c::1
  for number in 1 2 3; do
    lab_namespace "backend$number"
    lab_switch_port "backend$number" eth0
    lab_address "backend$number" eth0 "10.0.0.1$number/24"
    lab_address "backend$number" eth0 "2001:db8:2::1$number/64"
    lab_gateway "backend$number" 10.0.0.1 2001:db8:2::1
  done
}

# lab_gateway ROLE IPV4 IPV6
lab_gateway() {
  ip -n "$LAB_NAME-$1" route replace default via "$2"
  ip -n "$LAB_NAME-$1" -6 route replace default via "$3"
}

# lab_own_vip IPV4 IPV6: every backend owns both without answering for them: ARP because it is told so; neighbour discovery
# answers for what is on the link's own interface only.
lab_own_vip() {
  local number
  for number in 1 2 3; do
    lab_address "backend$number" lo "$1/32"
    lab_address "backend$number" lo "$2/128"
    lab_in "backend$number" sysctl -q -w net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2
  done
}

# lab_narrow MTU: what the router sends to the client and to the director passes a link of that many bytes, of which the ends
# know nothing: their own interfaces have 1,500. (256 is the metric of an address's own IPv6 route, which is replaced.)
lab_narrow() {
  ip -n "$LAB_NAME-router" route replace 198.51.100.0/24 dev client mtu lock "$1"
  ip -n "$LAB_NAME-router" route replace 192.0.2.0/24 dev front mtu lock "$1"
  ip -n "$LAB_NAME-router" -6 route replace 2001:db8:c::/64 dev client metric 256 mtu lock "$1"
  ip -n "$LAB_NAME-router" -6 route replace 2001:db8:1::/64 dev front metric 256 mtu lock "$1"
}

# lab_lossy N: the router loses one packet in N, either way.
lab_lossy() {
  lab_in router nft add table inet lossy
  lab_in router nft add chain inet lossy forward '{ type filter hook forward priority 0; }'
  lab_in router nft add rule inet lossy forward numgen inc mod "$1" 0 drop
}

# lab_nginx_files NUMBER L4_PORT [WORDS]: GET / answers the backend's name, GET /big is 64 MiB of zeros, what is PUT under /up/
# becomes a file. The same on l4_port 8000 with a log of its own, for requests that do not pass the director. WORDS go to
# `listen`. A log line begins with the connection's number, and ends with whom the PROXY protocol names.
lab_nginx_files() {
  local name=backend$1 directory=$LAB_DIRECTORY/backend$1 listen_ipv6=
  [[ $LAB_IPV6 == no ]] || listen_ipv6="listen [::]:$2 ${3:-};"
  mkdir -p "$directory/up"
  truncate -s 64M "$directory/big"
  cat >"$directory/nginx.conf" <<CONF
daemon off;
worker_processes 1;
user root;
pid $directory/pid;
error_log $directory/error.log;
events { worker_connections 2048; }
http {
  log_format connections '\$connection \$remote_addr:\$remote_port \$status \$body_bytes_sent "\$request" '
    '\$proxy_protocol_addr:\$proxy_protocol_port';
  sendfile on;
  keepalive_requests 10000000;
  client_max_body_size 0;
  root $directory;
  server {
    listen $2 ${3:-};
    $listen_ipv6
    access_log $directory/access.log connections;
    location = / { return 200 "$name\n"; }
    location /up/ { dav_methods PUT; }
  }
  server {
    listen 8000;
    access_log $directory/direct.log connections;
    location = / { return 200 "$name\n"; }
  }
}
CONF
}

lab_nginx() {
  local directory=$LAB_DIRECTORY/backend$1
  lab_nginx_files "$@"
  lab_start "backend$1" "$directory/out" nginx -c "$directory/nginx.conf" -e "$directory/error.log"
}
