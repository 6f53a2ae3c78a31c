# shellcheck shell=bash disable=SC2034
# What scripts/nic-lab sends through Crossdock, from kernel to kernel, and what must come of it. Sourced, runs nothing.
# Needs lab.sh and the script's wait_for; every function leaves a figure for the table, or says what failed and ends the shell.

TRAFFIC_VIP=192.0.2.100
# Of the backends, with what follows it.
TRAFFIC_NETWORK6=2001:db8:2:
# Of nine connections five, three and one, if one worker counts them.
TRAFFIC_WEIGHTS=(5 3 1)
TRAFFIC_REQUESTS=90
TRAFFIC_DATAGRAMS=27
TRAFFIC_DOWNLOAD_MIB=8
TRAFFIC_ADVERTISEMENTS=3

# Crossdock's rules for a guest: traffic_rules WORKERS MEMORY FRONT_ADDRESS BACK_ADDRESS VLANS
traffic_rules() {
  local cores service front='' back=''
  ! $5 || { front='vlan = 100' back='vlan = [200, 30]'; }
  cores=$(seq -s ', ' 1 "$1")
  cat <<RULES
[dataplane]
workers = [$cores]
memory = "$2"
idle = "sleep"
max_flows = 65_536

[[port]]
name = "front"
device = "$3"
kernel = true
addresses = ["192.0.2.5/24"]
$front

[[port]]
name = "back"
device = "$4"
kernel = true
addresses = ["10.0.0.5/24", "$TRAFFIC_NETWORK6:5/64"]
local_addresses = ["10.0.0.64/28", "$TRAFFIC_NETWORK6:40/124"]
$back
RULES
  for service in "web tcp 80 10.0.0.1 8080" "echo udp 5353 10.0.0.1 5353" "bare udp 5354 $TRAFFIC_NETWORK6:1 5354"; do
    # shellcheck disable=SC2086 # five words
    traffic_service $service
  done
}

# traffic_service NAME PROTOCOL L4_PORT ADDRESS BACKEND_L4_PORT: ADDRESS is the backends' but for the last digit.
traffic_service() {
  local number address
  printf '\n[[service]]\nname = "%s"\nlisten = "%s %s:%s"\nmode = "fullnat"\nscheduler = "wrr"\n' "$1" "$2" "$TRAFFIC_VIP" "$3"
  for number in 1 2 3; do
    address=$4$number
    [[ $address != *:* ]] || address="[$address]"
    printf '\n  [[service.backend]]\n  address = "%s:%s"\n  weight = %s\n' "$address" "$5" "${TRAFFIC_WEIGHTS[number - 1]}"
  done
}

# The kernel at both ends in VLANs. A second tag is 4 bytes more than interfaces of 1,500 bytes forward.
traffic_vlans() {
  local number role
  lab_vlan client eth0 0 100
  for number in 1 2 3; do
    lab_vlan "backend$number" eth0 200 30
  done
  for role in director switch; do
    # shellcheck disable=SC2016 # expanded there
    lab_in "$role" bash -c 'for path in /sys/class/net/*; do ip link set "${path##*/}" mtu 1504; done'
  done
}

# IPv6 on the backends alone: all else stays quiet.
traffic_ipv6() {
  local number
  for number in 1 2 3; do
    lab_in "backend$number" sysctl -q -w net.ipv6.conf.eth0.accept_dad=0 net.ipv6.conf.eth0.accept_ra=0 \
      net.ipv6.conf.eth0.router_solicitations=0 net.ipv6.conf.all.disable_ipv6=0
    lab_address "backend$number" eth0 "$TRAFFIC_NETWORK6:1$number/64"
  done
}

# nginx and UDP echos that begin with its name, on each backend: one for IPv4, and one for IPv6, whose kernel takes no datagram
# without the right checksum.
traffic_servers() {
  local number family
  cat >"$LAB_DIRECTORY/echo.py" <<'PYTHON'
import socket, sys
family, port = (socket.AF_INET6, 5354) if sys.argv[2] == "6" else (socket.AF_INET, 5353)
server = socket.socket(family, socket.SOCK_DGRAM)
server.bind(("", port))
while True:
    payload, client = server.recvfrom(2000)
    server.sendto(sys.argv[1].encode() + b"\n" + payload, client)
PYTHON
  for number in 1 2 3; do
    lab_nginx "$number" 8080
    for family in 4 6; do
      lab_start "backend$number" "$LAB_DIRECTORY/echo$number.$family" python3 "$LAB_DIRECTORY/echo.py" "backend$number" "$family"
    done
  done
}

# traffic_http WORKERS: connections one after the other; TRAFFIC_HTTP is how many each backend answered.
traffic_http() {
  local number answers=$LAB_DIRECTORY/answers
  : >"$answers"
  for ((number = 0; number < TRAFFIC_REQUESTS; number++)); do
    lab_in client curl -sS -m 60 "http://$TRAFFIC_VIP/" >>"$answers" ||
      die "HTTP request $((number + 1)) of $TRAFFIC_REQUESTS through the VIP failed"
  done
  TRAFFIC_HTTP=$(traffic_spread "$answers" "$1")
}

# traffic_udp WORKERS: TRAFFIC_UDP is how many datagrams each backend answered.
traffic_udp() {
  local answers=$LAB_DIRECTORY/datagrams
  traffic_datagrams 5353 20000 1463 >"$answers" || die "a datagram through the VIP, or its answer, was lost or changed"
  TRAFFIC_UDP=$(traffic_spread "$answers" "$1")
}

# traffic_bare WORKERS: datagrams without checksums, which IPv6 backends get with one. Who computed them is in the summary.
traffic_bare() {
  local answers=$LAB_DIRECTORY/bare number
  for number in 1 2 3; do
    wait_for "the twin answers backend$number in IPv6" 60 lab_in "backend$number" ping -q -c 1 -W 1 "$TRAFFIC_NETWORK6:5"
  done
  # The longer header takes 20 bytes.
  traffic_datagrams 5354 30000 1443 bare >"$answers" || die "a datagram without checksum, or its answer, was lost or changed"
  traffic_spread "$answers" "$1" >/dev/null
}

# traffic_datagrams L4_PORT FIRST LONGEST [bare]: one datagram a flow, from an l4_port of its own each (FIRST and up), of one byte, of an odd
# size and of the most that fits a frame.
traffic_datagrams() {
  lab_in client python3 - "$TRAFFIC_VIP" "$TRAFFIC_DATAGRAMS" "$@" <<'PYTHON'
import os, socket, sys
address, count, port, first, longest = sys.argv[1], *(int(argument) for argument in sys.argv[2:6])
for number in range(count):
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(10)
    if "bare" in sys.argv:
        client.setsockopt(socket.SOL_SOCKET, 11, 1) # SO_NO_CHECK
    client.bind(("", first + number))
    client.connect((address, port))
    payload = os.urandom((1, 333, longest)[number % 3])
    client.send(payload)
    name, echo = client.recv(2000).split(b"\n", 1)
    assert echo == payload, "the payload has changed"
    print(name.decode())
PYTHON
}

# traffic_spread FILE WORKERS: of the lines of FILE, how many are of backend1, 2 and 3. Exactly as the weights say where one
# worker chooses; several choose each for itself, so of few connections each backend has just some.
traffic_spread() {
  local number count wanted lines sum=0 spread=()
  lines=$(wc -l <"$1")
  for number in "${TRAFFIC_WEIGHTS[@]}"; do
    ((sum += number))
  done
  for number in 1 2 3; do
    count=$(grep -cx "backend$number" "$1") || true
    wanted=$((lines * TRAFFIC_WEIGHTS[number - 1] / sum))
    ((count > 0)) || die "backend$number was never chosen: $(sort "$1" | uniq -c | tr '\n' ' ')"
    (($2 > 1 || count == wanted)) || die "of $lines, backend$number answered $count and not $wanted"
    spread+=("$count")
  done
  echo "${spread[*]}"
}

# A download, in full frames and as fast as the emulation goes: every byte must come.
traffic_download() {
  local number body=$LAB_DIRECTORY/body
  head -c "${TRAFFIC_DOWNLOAD_MIB}M" /dev/urandom >"$LAB_DIRECTORY/sent"
  for number in 1 2 3; do
    cp "$LAB_DIRECTORY/sent" "$LAB_DIRECTORY/backend$number/sent"
  done
  lab_in client curl -sS -m 120 -o "$body" "http://$TRAFFIC_VIP/sent" || die "the download through the VIP failed"
  cmp -s "$body" "$LAB_DIRECTORY/sent" || die "the download through the VIP came changed"
}

# VRRP advertisements, which are multicast: a NIC passes them on to the kernel twin only when it was told to. How many came
# is in the summary.
traffic_multicast() {
  lab_in client python3 - "$TRAFFIC_ADVERTISEMENTS" <<'PYTHON' || die "the client cannot send multicast"
import socket, sys
sender = socket.socket(socket.AF_INET, socket.SOCK_RAW, 112)
sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("192.0.2.10"))
# With any other hop limit it is not VRRP: RFC 5798, section 5.1.1.3.
sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
for number in range(int(sys.argv[1])):
    sender.sendto(bytes(20), ("224.0.0.18", 0))
PYTHON
}

# traffic_check SUMMARY KIND WORKERS: what Crossdock itself counted. TRAFFIC_DROPS, TRAFFIC_WORKERS and TRAFFIC_RSS are for the table.
traffic_check() {
  local routing summary
  summary=$(tail -n 1 "$1")
  routing=$(jq .slow_path.front.routing.to_kernel <<<"$summary") || die "Crossdock printed no summary"
  ((routing == TRAFFIC_ADVERTISEMENTS)) ||
    die "of $TRAFFIC_ADVERTISEMENTS multicast packets of VRRP $routing reached the kernel twin"
  jq -e '([.ports[].rx_packets] | add) + .packets.from_slow_path ==
    ([.ports[].tx_packets] | add) + .packets.punted + .packets.dropped' <<<"$summary" >/dev/null ||
    die "what came in is not what went out, was punted or dropped: $(jq -c '.packets, .ports' <<<"$summary")"
  # All of these devices compute UDP checksums, and of what the traffic is nothing else needs one.
  jq -e --argjson bare "$TRAFFIC_DATAGRAMS" '.packets.checksums_offloaded == $bare and .packets.checksums_summed == 0' <<<"$summary" >/dev/null ||
    die "of $TRAFFIC_DATAGRAMS checksums the ports computed $(jq -c '.packets.checksums_offloaded' <<<"$summary"): $(jq -c '.ports' <<<"$summary")"
  TRAFFIC_DROPS=$(jq -r '[.drops | to_entries[] | select(.value > 0) | "\(.key) \(.value)"] | join(", ") |
    if . == "" then "none" else . end' <<<"$summary")
  TRAFFIC_WORKERS=$(jq -r '[.per_worker[]?.rx_packets] | join(" ")' <<<"$summary")
  TRAFFIC_RSS=$(jq -r '[.ports[] | select(.rss) | "\(.name) \(.rss.as_set) of \(.rss.as_set + .rss.otherwise)"] | join(", ")' <<<"$summary")
  if [[ $2 == virtio-net ]] && (($3 > 1)); then
    traffic_check_rss <<<"$summary"
  fi
}

# The device with RSS has to put every packet looked at where Crossdock says, and to use every queue.
traffic_check_rss() {
  jq -e '([.ports[] | select(.rss.as_set > 0 and .rss.otherwise == 0)] | length) == 2 and all(.per_worker[]; .rx_packets > 0)' >/dev/null ||
    die "RSS: workers received $TRAFFIC_WORKERS packets; as set: ${TRAFFIC_RSS:-by no port}"
}

# The VIP and the port's own address are the kernel twin's.
traffic_ping() {
  local address
  for address in "$TRAFFIC_VIP" 192.0.2.5; do
    lab_in client ping -q -c 3 -i 0.2 -W 20 "$address" >"$LAB_DIRECTORY/ping" || die "the twin does not answer a ping to $address"
  done
}
