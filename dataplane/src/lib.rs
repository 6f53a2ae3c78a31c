//! The packet line: packets in, packets out.

#![forbid(unsafe_code)]
