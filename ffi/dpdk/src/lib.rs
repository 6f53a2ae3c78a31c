//! Safe wrappers around DPDK.
