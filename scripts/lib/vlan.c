/* Tags what leaves an interface and untags what comes in, with the kernel's own hands (skb_vlan_push, skb_vlan_pop), which
 * its VLAN interfaces and Open vSwitch use too: not every kernel has VLAN interfaces. Compiled and put in place by lab_vlan
 * (lab.sh); OUTER is 0 for one tag. What comes with other tags does not pass.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#define WIRE(ethertype) __builtin_bswap16(ethertype)

static long (*vlan_push)(void *skb, __be16 protocol, __u16 vid) = (void *)BPF_FUNC_skb_vlan_push;
static long (*vlan_pop)(void *skb) = (void *)BPF_FUNC_skb_vlan_pop;

__attribute__((section("out"), used)) int tag(struct __sk_buff *skb)
{
	if (vlan_push(skb, WIRE(0x8100), INNER))
		return TC_ACT_SHOT;
	if (OUTER && vlan_push(skb, WIRE(0x88a8), OUTER))
		return TC_ACT_SHOT;
	return TC_ACT_OK;
}

__attribute__((section("in"), used)) int untag(struct __sk_buff *skb)
{
	if (OUTER) {
		if (!skb->vlan_present || skb->vlan_proto != WIRE(0x88a8) || (skb->vlan_tci & 0xfff) != OUTER || vlan_pop(skb))
			return TC_ACT_SHOT;
	}
	if (!skb->vlan_present || skb->vlan_proto != WIRE(0x8100) || (skb->vlan_tci & 0xfff) != INNER || vlan_pop(skb))
		return TC_ACT_SHOT;
	return skb->vlan_present ? TC_ACT_SHOT : TC_ACT_OK;
}

char gpl[] __attribute__((section("license"), used)) = "GPL";
