//! What overrules a service's scheduler, as workers read it: server IDs and prefixes of slots.

use std::sync::Arc;

use dataplane::index::BackendIndex;
use dataplane::rules::Member;
use dataplane::rules::route::{Configuration, DatagramIds, PrefixRoutes, QuicLb, Routes};

use crate::rules::checked::{Endpoint, Service};
use crate::rules::routes::{self, Prefixes, QuicLbConfiguration};

/// The routes of a service whose backends are `members`, in the same order; none where nothing overrules its scheduler.
pub(super) fn build(service: &Service, members: &[Member]) -> Option<Box<Routes>> {
    let checked = &service.routes;
    if *checked == routes::Routes::default() {
        return None;
    }
    let index = |endpoint: Endpoint| {
        let place = service.backends.iter().position(|backend| backend.endpoint == endpoint)?;
        members.get(place).map(|member| member.backend)
    };
    let server_ids = checked.server_ids.iter().filter_map(|(id, endpoint)| Some((*id, index(*endpoint)?)));
    Some(Box::new(Routes {
        datagrams: checked.datagrams.as_ref().map(datagrams),
        tcp_option: checked.tcp_option,
        server_ids: server_ids.collect(),
        prefixes: checked.prefixes.as_ref().map(|prefixes| by_prefix(prefixes, index)),
    }))
}

fn datagrams(ids: &routes::DatagramIds) -> DatagramIds {
    match ids {
        routes::DatagramIds::Mvfst => DatagramIds::Mvfst,
        routes::DatagramIds::At { offset, len } => DatagramIds::At { offset: *offset, len: *len },
        routes::DatagramIds::QuicLb(list) => {
            let mut quic_lb = QuicLb::default();
            for QuicLbConfiguration { code_point, server_id_len, nonce_len, key, encodes_length } in list {
                // Checked rules have no others.
                if let Ok(configuration) =
                    Configuration::new(*server_id_len, *nonce_len, *key, *encodes_length)
                {
                    let is_set = quic_lb.set(*code_point, configuration);
                    debug_assert!(is_set);
                }
            }
            DatagramIds::QuicLb(Box::new(quic_lb))
        }
    }
}

fn by_prefix(prefixes: &Arc<Prefixes>, index: impl Fn(Endpoint) -> Option<BackendIndex>) -> PrefixRoutes {
    PrefixRoutes {
        table: Arc::clone(&prefixes.table),
        targets: prefixes.targets.iter().map(|endpoint| index(*endpoint)).collect(),
    }
}
