//! `[[service.backend]]` and `[service.sorry]`: who takes a service's connections.

use std::net::IpAddr;

use toml::Spanned;

use super::health;
use super::services::Context;
use super::{no_duplicates, optional, or_default, required};
use crate::rules::checked::{Backend, BackendState, CheckPlace, Endpoint, Mode, Thresholds, WEIGHT_MAX};
use crate::rules::error::{Problem, Problems};
use crate::rules::fields::{Field, Place};
use crate::rules::file::{BackendTable, SorryTable};
use crate::rules::values::{choice, endpoint, whole};
use crate::rules::words::STATE;

/// A backend of which some values may have been wrong.
pub(super) struct BackendDraft {
    /// The l4 port is the service's where none was written, and unknown where that is.
    pub(super) endpoint: Option<Spanned<(IpAddr, Option<u16>)>>,
    weight: Option<u32>,
    thresholds: Option<Option<Thresholds>>,
    state: Option<BackendState>,
    pub(super) check_place: Option<CheckPlace>,
    /// Any numbers; `None` where they could not be read.
    pub(super) server_ids: Option<Vec<Spanned<i128>>>,
}

impl BackendDraft {
    pub(super) fn finish(self) -> Option<Backend> {
        Some(Backend {
            endpoint: endpoint_of(self.endpoint?)?,
            weight: self.weight?,
            thresholds: self.thresholds?,
            state: self.state?,
            check_place: self.check_place?,
        })
    }
}

/// The endpoint, once its l4 port is known.
pub(super) fn endpoint_of(written: Spanned<(IpAddr, Option<u16>)>) -> Option<Endpoint> {
    let (address, l4_port) = written.into_inner();
    Some(Endpoint { address, l4_port: l4_port? })
}

pub(super) fn check(
    field: &Field<Vec<BackendTable>>,
    service: &Context<'_>,
    problems: &mut Problems,
) -> Vec<BackendDraft> {
    let tables = field.value().map_or(&[][..], |tables| tables.get_ref());
    let backends: Vec<_> = tables.iter().map(|table| backend(table, service, problems)).collect();
    let endpoints = backends.iter().filter_map(|backend| backend.endpoint.as_ref());
    no_duplicates(
        endpoints.map(|endpoint| (*endpoint.get_ref(), endpoint.span())),
        problems,
        |(address, l4_port)| {
            let endpoint = Endpoint { address: *address, l4_port: l4_port.unwrap_or(0) };
            Problem::new(format!("the service has the backend {endpoint} twice"))
                .help("raise its weight instead")
        },
    );
    backends
}

/// The sorry server, which is none of the backends.
pub(super) fn sorry(
    field: &Field<SorryTable>,
    service: &Context<'_>,
    backends: &[BackendDraft],
    problems: &mut Problems,
) -> Option<Spanned<(IpAddr, Option<u16>)>> {
    let table = field.value()?.get_ref();
    let sorry = reached_at(&table.address, &table.place, service, problems)?;
    let endpoints = backends.iter().filter_map(|backend| backend.endpoint.as_ref());
    if let Some(backend) = endpoints.into_iter().find(|backend| backend.get_ref() == sorry.get_ref()) {
        problems.push(
            Problem::new(format!("the sorry server {} is also a backend", sorry.get_ref().0))
                .at(sorry.span())
                .context(backend.span(), "this backend")
                .help("it takes what no backend can, so it is none of them"),
        );
    }
    Some(sorry)
}

fn backend(table: &BackendTable, service: &Context<'_>, problems: &mut Problems) -> BackendDraft {
    BackendDraft {
        endpoint: reached_at(&table.address, &table.place, service, problems),
        weight: or_default(&table.weight, 1, problems, |&weight| {
            whole("a weight", weight, 0, WEIGHT_MAX.into())
        }),
        thresholds: thresholds(table, problems),
        state: or_default(&table.state, BackendState::Up, problems, |text| {
            choice("a backend's state", text, &STATE)
        }),
        check_place: health::place_of(table, problems),
        server_ids: match &table.server_id {
            Field::Absent => Some(Vec::new()),
            Field::Unreadable => None,
            Field::Value(ids) => Some(ids.get_ref().clone()),
        },
    }
}

/// The endpoint that `address` says, with the l4 port of the service where it says none.
fn reached_at(
    address: &Field<String>,
    place: &Place,
    service: &Context<'_>,
    problems: &mut Problems,
) -> Option<Spanned<(IpAddr, Option<u16>)>> {
    let l4_port = service.listens.l4_port();
    required(address, (place, "address"), problems, |text| {
        let (address, own) = endpoint(text)?;
        let at = |l4_port| Endpoint { address, l4_port };
        if let Some(own) = own.filter(|_| service.listens.are_pings()) {
            return Err(Problem::new(format!("backend port {own}, and the service listens on ICMP alone"))
                .label(format!("`{}` alone", at(0)))
                .help("a ping has no l4 port"));
        }
        match (service.mode, own, l4_port) {
            (Some(Mode::Snat), Some(own), _) => {
                Err(Problem::new(format!("backend port {own} in mode \"snat\""))
                    .label(format!("`{}` alone", at(0)))
                    .help("the backends of this mode are the routers by which connections leave"))
            }
            (Some(mode @ (Mode::Dr | Mode::Tunnel)), Some(own), Some(0)) => {
                Err(Problem::new(format!("backend port {own}, and the service listens on several"))
                    .label(format!("`{}` alone", at(0)))
                    .help(as_it_is(mode)))
            }
            (Some(mode @ (Mode::Dr | Mode::Tunnel)), Some(own), Some(service)) if own != service => {
                Err(Problem::new(format!("backend port {own} differs from the service's {service}"))
                    .label(format!("`{}` or `{}`", at(0), at(service)))
                    .help(as_it_is(mode)))
            }
            _ => Ok((address, own.or(l4_port))),
        }
    })
}

/// Why a backend's l4 port is the service's.
fn as_it_is(mode: Mode) -> String {
    format!("mode \"{mode}\" leaves the packet as it is, its l4 port too; mode \"fullnat\" can change it")
}

/// `max_connections` and `resume_below`. By default a full backend resumes below three quarters, as in IPVS; rounded
/// up, so that one which takes a single connection resumes at all.
fn thresholds(table: &BackendTable, problems: &mut Problems) -> Option<Option<Thresholds>> {
    let upper = optional(&table.max_connections, problems, |&value| {
        whole::<u32>("max_connections", value, 1, u32::MAX.into())
    });
    if matches!(table.max_connections, Field::Absent)
        && let Field::Value(lower) = &table.resume_below
    {
        let problem = Problem::new("`resume_below` without `max_connections`").at(lower.span());
        problems.push(problem.label("never full").help("a backend without a bound is never full"));
        return None;
    }
    let Some(upper) = upper.map(Spanned::into_inner) else {
        return matches!(table.max_connections, Field::Absent).then_some(None);
    };
    let lower = or_default(&table.resume_below, upper - upper / 4, problems, |&value| {
        whole("resume_below", value, 1, upper.into())
    });
    Some(Some(Thresholds { upper, lower: lower? }))
}
