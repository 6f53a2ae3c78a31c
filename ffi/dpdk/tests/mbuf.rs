//! The life of an mbuf: growing and shrinking at both ends, several segments, and the way back to the pool.

mod support;

use dpdk::{HEADROOM_BYTES, Mempool};
use support::{TestPool, eal};

#[test]
fn mbufs_grow_shrink_chain_and_return() {
    let eal = eal("mbuf");
    let pool = TestPool::new(&eal, "mbuf");
    headroom_and_tailroom_end_where_the_buffer_does(&pool);
    a_trimmed_front_is_headroom_again(&pool);
    truncate_frees_the_segments_it_empties(&pool);
    gathering_moves_bytes_to_the_front_and_frees_what_it_empties(&pool);
    an_exhausted_pool_says_so_and_recovers(&pool);
    two_pools_get_their_own_mbufs_back(&pool);
}

fn headroom_and_tailroom_end_where_the_buffer_does(pool: &TestPool) {
    let mut mbuf = pool.mbuf(b"payload");
    assert_eq!((mbuf.headroom(), mbuf.tailroom()), (usize::from(HEADROOM_BYTES), 2048 - 7));
    assert!(mbuf.prepend(HEADROOM_BYTES + 1).is_none(), "more than the headroom");
    assert_eq!(mbuf.data(), b"payload", "a refusal changes nothing");
    mbuf.prepend(HEADROOM_BYTES).expect("all of the headroom").fill(0xaa);
    assert_eq!((mbuf.headroom(), mbuf.packet_len()), (0, 128 + 7));
    assert!(mbuf.prepend(1).is_none(), "the headroom is used up");
    assert!(mbuf.append(2048 - 6).is_none(), "more than the tailroom");
    mbuf.append(2048 - 7).expect("all of the tailroom").fill(0xbb);
    assert_eq!((mbuf.tailroom(), mbuf.packet_len(), mbuf.data().len()), (0, 2176, 2176));
    assert_eq!(mbuf.data()[..128], [0xaa; 128]);
    assert_eq!(mbuf.data()[128..135], *b"payload");
    assert_eq!(mbuf.data()[135..], [0xbb; 2041]);
}

fn a_trimmed_front_is_headroom_again(pool: &TestPool) {
    let mut mbuf = pool.mbuf(b"outer|inner");
    assert!(!mbuf.trim_front(12), "more than there is");
    assert!(mbuf.trim_front(6));
    assert_eq!((mbuf.data(), mbuf.headroom(), mbuf.packet_len()), (&b"inner"[..], 128 + 6, 5));
    mbuf.data_mut()[0] = b'I';
    mbuf.prepend(6).expect("what was trimmed").copy_from_slice(b"OUTER|");
    assert_eq!(mbuf.data(), b"OUTER|Inner");
    mbuf.set_port(7);
    assert_eq!(mbuf.port(), 7);
}

fn truncate_frees_the_segments_it_empties(pool: &TestPool) {
    let mut mbuf = pool.mbuf(b"first");
    mbuf.chain(pool.mbuf(b"second")).expect("two segments");
    mbuf.chain(pool.mbuf(b"third")).expect("three segments");
    assert_eq!((mbuf.segment_count(), mbuf.packet_len(), mbuf.data()), (3, 16, &b"first"[..]));
    assert_eq!(mbuf.segments().collect::<Vec<_>>(), [&b"first"[..], b"second", b"third"]);
    mbuf.append(1).expect("tailroom of the last segment")[0] = b'!';
    assert_eq!(mbuf.segments().last(), Some(&b"third!"[..]));
    assert_eq!(pool.in_use(), 3);

    assert!(!mbuf.truncate(18), "truncating does not lengthen");
    assert!(mbuf.truncate(17));
    assert_eq!((mbuf.segment_count(), pool.in_use()), (3, 3), "its own length frees nothing");
    assert!(mbuf.truncate(11));
    assert_eq!((mbuf.segment_count(), mbuf.packet_len(), pool.in_use()), (2, 11, 2));
    assert!(mbuf.truncate(3));
    assert_eq!((mbuf.segments().collect::<Vec<_>>(), pool.in_use()), (vec![&b"fir"[..]], 1));
    assert!(mbuf.truncate(0));
    assert_eq!((mbuf.data(), mbuf.segment_count()), (&b""[..], 1));
}

fn gathering_moves_bytes_to_the_front_and_frees_what_it_empties(pool: &TestPool) {
    let mut mbuf = pool.mbuf(b"first");
    mbuf.chain(pool.mbuf(b"second")).expect("two segments");
    mbuf.chain(pool.mbuf(b"third")).expect("three segments");
    assert!(mbuf.gather(3), "it has them");
    assert!(mbuf.gather(8));
    assert_eq!(mbuf.segments().collect::<Vec<_>>(), [&b"firstsec"[..], b"ond", b"third"]);
    assert!(mbuf.gather(12));
    assert_eq!((mbuf.segment_count(), mbuf.packet_len(), pool.in_use()), (2, 16, 2));
    assert_eq!(mbuf.segments().collect::<Vec<_>>(), [&b"firstsecondt"[..], b"hird"]);
    mbuf.chain(pool.mbuf(&[7; 2_048])).expect("three segments again");
    assert!(!mbuf.gather(2_049), "more than a buffer holds");
    assert_eq!((mbuf.segment_count(), mbuf.packet_len(), mbuf.data().len()), (3, 2_064, 12));
    assert!(mbuf.truncate(100) && mbuf.gather(usize::MAX));
    assert_eq!((mbuf.segment_count(), mbuf.data().len(), pool.in_use()), (1, 100, 1));
    assert_eq!(&mbuf.data()[..17], b"firstsecondthird\x07");
}

fn an_exhausted_pool_says_so_and_recovers(pool: &TestPool) {
    let all: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
    assert_eq!((all.len(), pool.available(), pool.in_use()), (2047, 0, 2047));
    assert!(pool.alloc().is_none());
    drop(all);
    assert_eq!((pool.available(), pool.in_use()), (2047, 0));
    assert!(pool.alloc().is_some());
}

fn two_pools_get_their_own_mbufs_back(pool: &TestPool) {
    let other = Mempool::create(pool.eal(), "other", 63, 0, 512, None).expect("a small pool");
    let mut burst = dpdk::Burst::new();
    for i in 0..32u8 {
        let mbuf = if i % 3 == 0 { other.alloc() } else { pool.alloc() };
        burst.push(mbuf.expect("both have mbufs")).expect("room");
    }
    assert_eq!((other.in_use(), pool.in_use()), (11, 21));
    burst.clear();
    assert_eq!((other.in_use(), pool.in_use()), (0, 0), "a bulk free sorts the mbufs by pool");
}
