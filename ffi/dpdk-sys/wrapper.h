/* What dpdk-sys binds, and the one file that knows how DPDK releases differ.
 *
 * Rust never sees rte_mbuf, rte_eth_conf, rte_eth_dev_info, rte_eth_stats or rte_eth_link: their fields move between
 * long-term releases (22.11, 23.11, 24.11: markers and anonymous unions came and went). Here they become
 *   - offsets, computed by the C compiler (XD_MBUF_*), which Rust uses for its inline accessors;
 *   - small structs and functions of our own (xd_*), which copy the fields by name.
 * Functions return what DPDK returns: 0 or a negative errno unless the comment says otherwise.
 */
#ifndef XD_WRAPPER_H
#define XD_WRAPPER_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* sched_getaffinity, fopencookie */
#endif

#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>

#include <rte_config.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_ring.h>
#include <rte_udp.h>
#include <rte_version.h>

#if RTE_VERSION < RTE_VERSION_NUM(22, 11, 0, 0)
#error "Crossdock needs DPDK 22.11 or newer"
#endif

/* ---- layout ---------------------------------------------------------------------------------------------- */

enum xd_mbuf_layout {
	XD_MBUF_BUF_ADDR = offsetof(struct rte_mbuf, buf_addr),
	XD_MBUF_DATA_OFF = offsetof(struct rte_mbuf, data_off),
	XD_MBUF_NB_SEGS = offsetof(struct rte_mbuf, nb_segs),
	XD_MBUF_PORT = offsetof(struct rte_mbuf, port),
	XD_MBUF_OL_FLAGS = offsetof(struct rte_mbuf, ol_flags),
	XD_MBUF_PKT_LEN = offsetof(struct rte_mbuf, pkt_len),
	XD_MBUF_DATA_LEN = offsetof(struct rte_mbuf, data_len),
	XD_MBUF_HASH_RSS = offsetof(struct rte_mbuf, hash),
	XD_MBUF_BUF_LEN = offsetof(struct rte_mbuf, buf_len),
	XD_MBUF_NEXT = offsetof(struct rte_mbuf, next),
	XD_MBUF_VLAN_TCI = offsetof(struct rte_mbuf, vlan_tci),
};

/* Rust reads these fields with fixed widths. */
#define XD_FIELD_SIZE(field, bytes) \
	_Static_assert(sizeof(((struct rte_mbuf *)0)->field) == (bytes), "rte_mbuf." #field " changed its width")
XD_FIELD_SIZE(buf_addr, 8);
XD_FIELD_SIZE(data_off, 2);
XD_FIELD_SIZE(nb_segs, 2);
XD_FIELD_SIZE(port, 2);
XD_FIELD_SIZE(ol_flags, 8);
XD_FIELD_SIZE(pkt_len, 4);
XD_FIELD_SIZE(data_len, 2);
XD_FIELD_SIZE(hash.rss, 4);
XD_FIELD_SIZE(buf_len, 2);
XD_FIELD_SIZE(next, 8);
XD_FIELD_SIZE(vlan_tci, 2);

enum xd_constants {
	XD_HEADROOM_BYTES = RTE_PKTMBUF_HEADROOM,
	XD_DATA_ROOM_BYTES_DEFAULT = RTE_MBUF_DEFAULT_BUF_SIZE,
	XD_CACHE_SIZE_MAX = RTE_MEMPOOL_CACHE_MAX_SIZE,
	XD_RING_SP_SC = RING_F_SP_ENQ | RING_F_SC_DEQ,
	XD_LOG_ERR = RTE_LOG_ERR,
	XD_LOG_WARNING = RTE_LOG_WARNING,
	XD_LOG_NOTICE = RTE_LOG_NOTICE,
	XD_LOG_INFO = RTE_LOG_INFO,
	XD_LOG_DEBUG = RTE_LOG_DEBUG,
	XD_PORTS_MAX = RTE_MAX_ETHPORTS,
	XD_PORT_NAME_BYTES = RTE_ETH_NAME_MAX_LEN,
	XD_RETA_SIZE_MAX = 4096, /* twice the largest of DPDK 24.11's drivers (ice) */
};

/* Negative, so in an enum of its own: one negative value would make all of them signed. */
enum xd_socket {
	XD_ANY_SOCKET = SOCKET_ID_ANY,
};

static const uint64_t XD_RX_RSS_HASH = RTE_MBUF_F_RX_RSS_HASH;
static const uint64_t XD_RX_VLAN_STRIPPED = RTE_MBUF_F_RX_VLAN_STRIPPED;
static const uint64_t XD_TX_OFFLOAD_MULTI_SEGS = RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
static const uint64_t XD_TX_OFFLOAD_UDP_CKSUM = RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
static const uint64_t XD_TX_UDP_CKSUM = RTE_MBUF_F_TX_UDP_CKSUM;
static const uint64_t XD_TX_L4_MASK = RTE_MBUF_F_TX_L4_MASK;
static const uint64_t XD_RX_OFFLOAD_SCATTER = RTE_ETH_RX_OFFLOAD_SCATTER;
static const uint64_t XD_RSS_IPV4_TCP = RTE_ETH_RSS_NONFRAG_IPV4_TCP;
static const uint64_t XD_RSS_IPV4_UDP = RTE_ETH_RSS_NONFRAG_IPV4_UDP;

/* ---- process --------------------------------------------------------------------------------------------- */

/* rte_errno is thread-local, which a binding cannot name. */
static inline int xd_errno(void)
{
	return rte_errno;
}

/* Whether the calling thread has an lcore id: the one that ran rte_eal_init, or a registered one. */
static inline int xd_thread_has_lcore(void)
{
	return rte_lcore_id() != LCORE_ID_ANY;
}

static inline const char *xd_version(void)
{
	return rte_version();
}

/* A line of DPDK's log, handed over as it was formatted; returns how many bytes were taken. */
typedef ssize_t (*xd_log_write)(void *cookie, const char *text, size_t bytes);

/* Routes DPDK's log (stderr and syslog by default) into `write`. May be called before rte_eal_init. */
static inline int xd_log_redirect(xd_log_write write)
{
	cookie_io_functions_t io = {.write = write};
	FILE *stream = fopencookie(NULL, "w", io);

	if (stream == NULL)
		return -ENOMEM;
	setvbuf(stream, NULL, _IOLBF, BUFSIZ);
	return rte_openlog_stream(stream);
}

/* ---- mbufs ----------------------------------------------------------------------------------------------- */

/* Asks the port that sends the packet for its UDP checksum. The IP header, of `l3_len` bytes with all of its options, begins `l2_len`
 * bytes into the frame that is sent. net_tap needs l4_len, which rte_mbuf.h asks for with TSO alone. */
static inline void xd_mbuf_request_udp_checksum(struct rte_mbuf *mbuf, uint8_t l2_len, uint16_t l3_len, int is_ipv6)
{
	mbuf->tx_offload = rte_mbuf_tx_offload(l2_len, l3_len, sizeof(struct rte_udp_hdr), 0, 0, 0, 0);
	mbuf->ol_flags |= RTE_MBUF_F_TX_UDP_CKSUM | (is_ipv6 ? RTE_MBUF_F_TX_IPV6 : RTE_MBUF_F_TX_IPV4);
}

/* ---- ports ----------------------------------------------------------------------------------------------- */

struct xd_port_info {
	const char *driver;
	uint64_t rx_offloads;     /* RTE_ETH_RX_OFFLOAD_* */
	uint64_t tx_offloads;     /* RTE_ETH_TX_OFFLOAD_* */
	uint64_t rss_hash_types;  /* RTE_ETH_RSS_* */
	uint32_t rx_packet_bytes_max;
	uint16_t mtu_min;
	uint16_t mtu_max;
	uint16_t rx_queues_max;
	uint16_t tx_queues_max;
	uint16_t rx_descriptors_max;
	uint16_t tx_descriptors_max;
	uint16_t reta_size;
	uint16_t hash_key_bytes;
	int socket;
};

static inline int xd_port_info(uint16_t port, struct xd_port_info *out)
{
	struct rte_eth_dev_info info;
	int rc = rte_eth_dev_info_get(port, &info);

	if (rc != 0)
		return rc;
	*out = (struct xd_port_info){
		.driver = info.driver_name,
		.rx_offloads = info.rx_offload_capa,
		.tx_offloads = info.tx_offload_capa,
		.rss_hash_types = info.flow_type_rss_offloads,
		.rx_packet_bytes_max = info.max_rx_pktlen,
		.mtu_min = info.min_mtu,
		.mtu_max = info.max_mtu,
		.rx_queues_max = info.max_rx_queues,
		.tx_queues_max = info.max_tx_queues,
		.rx_descriptors_max = info.rx_desc_lim.nb_max,
		.tx_descriptors_max = info.tx_desc_lim.nb_max,
		.reta_size = info.reta_size,
		.hash_key_bytes = info.hash_key_size,
		.socket = rte_eth_dev_socket_id(port),
	};
	return 0;
}

/* The first port that `devargs` made, after rte_dev_probe(devargs); -ENODEV when it made none. The part before the
 * first comma is the name of most ports; where it is not (several ports on one device), DPDK matches the rest too,
 * which would take a driver's own `mac=` for a filter. */
static inline int xd_port_of_devargs(const char *devargs, const char *name, uint16_t *port)
{
	struct rte_dev_iterator iterator;
	int rc;

	if (rte_eth_dev_get_port_by_name(name, port) == 0)
		return 0;
	rc = rte_eth_iterator_init(&iterator, devargs);
	if (rc != 0)
		return rc;
	*port = rte_eth_iterator_next(&iterator);
	if (*port == RTE_MAX_ETHPORTS)
		return -ENODEV;
	rte_eth_iterator_cleanup(&iterator);
	return 0;
}

/* The next valid port id at or after `port`, or RTE_MAX_ETHPORTS (>= XD_PORTS_MAX). */
static inline uint16_t xd_port_next(uint16_t port)
{
	return rte_eth_find_next(port);
}

/* mtu 0 keeps DPDK's default (1500). Packets may lie in several mbufs coming in (`scatter`) and going out
 * (`segments`) as far as the device can, and it computes the UDP checksums that it is asked for (`udp_checksums`), likewise. With `filter_vlans` it lets VLANs through that it is told (xd_port_accept_vlan), and no
 * others, where it can do that. Several receive queues are fed by RSS over addresses and L4 ports where the
 * device can hash at all, and the hash is then delivered with the packet; a NULL key leaves the key to the driver. */
static inline int xd_port_configure(uint16_t port, uint16_t rx_queues, uint16_t tx_queues, uint32_t mtu,
				    int scatter, int segments, int udp_checksums, int filter_vlans,
				    const uint8_t *rss_key, uint8_t rss_key_bytes)
{
	struct rte_eth_conf conf;
	struct rte_eth_dev_info info;
	int rc = rte_eth_dev_info_get(port, &info);

	if (rc != 0)
		return rc;
	memset(&conf, 0, sizeof(conf));
	conf.rxmode.mtu = mtu;
	if (scatter)
		conf.rxmode.offloads |= info.rx_offload_capa & RTE_ETH_RX_OFFLOAD_SCATTER;
	if (filter_vlans)
		conf.rxmode.offloads |= info.rx_offload_capa & RTE_ETH_RX_OFFLOAD_VLAN_FILTER;
	if (segments)
		conf.txmode.offloads |= info.tx_offload_capa & RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
	if (udp_checksums)
		conf.txmode.offloads |= info.tx_offload_capa & RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
	if (rx_queues > 1) {
		uint64_t types = (RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP) & info.flow_type_rss_offloads;

		if (types != 0) {
			conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
			conf.rx_adv_conf.rss_conf.rss_hf = types;
			/* Drivers copy it; the field is not const because hash_conf_get writes by it. */
			conf.rx_adv_conf.rss_conf.rss_key = (uint8_t *)rss_key;
			conf.rx_adv_conf.rss_conf.rss_key_len = rss_key_bytes;
			conf.rxmode.offloads |= info.rx_offload_capa & RTE_ETH_RX_OFFLOAD_RSS_HASH;
		}
	}
	return rte_eth_dev_configure(port, rx_queues, tx_queues, &conf);
}

/* The RSS key in use, `key_bytes` of it, and the types of packets that are hashed (RTE_ETH_RSS_*). The key has room for
 * 255 bytes, as many as any driver could write. */
static inline int xd_port_rss_hash(uint16_t port, uint8_t *key, uint8_t key_bytes, uint64_t *types)
{
	struct rte_eth_rss_conf conf = {.rss_key = key, .rss_key_len = key_bytes};
	int rc = rte_eth_dev_rss_hash_conf_get(port, &conf);

	if (rc == 0)
		*types = conf.rss_hf;
	return rc;
}

/* Reads (set == 0) or writes the `size` entries of the RSS redirection table: a receive queue each. -EINVAL where there
 * are more than XD_RETA_SIZE_MAX. */
static inline int xd_port_reta(uint16_t port, uint16_t *queues, uint16_t size, int set)
{
	struct rte_eth_rss_reta_entry64 groups[XD_RETA_SIZE_MAX / RTE_ETH_RETA_GROUP_SIZE];
	uint16_t i;
	int rc;

	if (size > XD_RETA_SIZE_MAX)
		return -EINVAL;
	memset(groups, 0, sizeof(groups));
	for (i = 0; i < size; i++) {
		struct rte_eth_rss_reta_entry64 *group = &groups[i / RTE_ETH_RETA_GROUP_SIZE];

		group->mask |= UINT64_C(1) << (i % RTE_ETH_RETA_GROUP_SIZE);
		group->reta[i % RTE_ETH_RETA_GROUP_SIZE] = set ? queues[i] : 0;
	}
	if (set)
		return rte_eth_dev_rss_reta_update(port, groups, size);
	rc = rte_eth_dev_rss_reta_query(port, groups, size);
	for (i = 0; rc == 0 && i < size; i++)
		queues[i] = groups[i / RTE_ETH_RETA_GROUP_SIZE].reta[i % RTE_ETH_RETA_GROUP_SIZE];
	return rc;
}

/* Closes the port; with `remove`, also takes its device off the bus, so that its name is free again. */
static inline int xd_port_close(uint16_t port, int remove)
{
	struct rte_eth_dev_info info;
	int known = rte_eth_dev_info_get(port, &info) == 0;
	int rc = rte_eth_dev_close(port);

	if (remove && known)
		return rte_dev_remove(info.device);
	return rc;
}

struct xd_port_stats {
	uint64_t rx_packets;
	uint64_t rx_bytes;
	uint64_t rx_missed;   /* the port had no descriptor or buffer for them */
	uint64_t rx_errors;
	uint64_t rx_no_mbuf;  /* the mempool was empty */
	uint64_t tx_packets;
	uint64_t tx_bytes;
	uint64_t tx_errors;
};

static inline int xd_port_stats(uint16_t port, struct xd_port_stats *out)
{
	struct rte_eth_stats stats;
	int rc = rte_eth_stats_get(port, &stats);

	if (rc != 0)
		return rc;
	*out = (struct xd_port_stats){
		.rx_packets = stats.ipackets,
		.rx_bytes = stats.ibytes,
		.rx_missed = stats.imissed,
		.rx_errors = stats.ierrors,
		.rx_no_mbuf = stats.rx_nombuf,
		.tx_packets = stats.opackets,
		.tx_bytes = stats.obytes,
		.tx_errors = stats.oerrors,
	};
	return 0;
}

struct xd_port_link {
	uint32_t speed_mbps; /* UINT32_MAX when unknown */
	uint8_t up;
	uint8_t full_duplex;
};

static inline int xd_port_link(uint16_t port, struct xd_port_link *out)
{
	struct rte_eth_link link;
	int rc = rte_eth_link_get_nowait(port, &link);

	if (rc != 0)
		return rc;
	out->speed_mbps = link.link_speed;
	out->up = link.link_status;
	out->full_duplex = link.link_duplex;
	return 0;
}

static inline int xd_port_mac(uint16_t port, uint8_t *mac)
{
	struct rte_ether_addr address;
	int rc = rte_eth_macaddr_get(port, &address);

	if (rc == 0)
		memcpy(mac, address.addr_bytes, sizeof(address.addr_bytes));
	return rc;
}

static inline int xd_port_set_mac(uint16_t port, const uint8_t *mac)
{
	struct rte_ether_addr address;

	memcpy(address.addr_bytes, mac, sizeof(address.addr_bytes));
	return rte_eth_dev_default_mac_addr_set(port, &address);
}

static inline int xd_rx_queue_setup(uint16_t port, uint16_t queue, uint16_t descriptors, struct rte_mempool *pool)
{
	return rte_eth_rx_queue_setup(port, queue, descriptors, rte_eth_dev_socket_id(port), NULL, pool);
}

static inline int xd_tx_queue_setup(uint16_t port, uint16_t queue, uint16_t descriptors)
{
	return rte_eth_tx_queue_setup(port, queue, descriptors, rte_eth_dev_socket_id(port), NULL);
}

#endif
