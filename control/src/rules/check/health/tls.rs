//! `ca`, `insecure` and `sni`: by whose word a backend's certificate is believed.

use std::fs;
use std::path::Path;

use rustls::pki_types::ServerName;
use toml::Spanned;

use super::Kind;
use crate::rules::check::or_default;
use crate::rules::check::policy::place;
use crate::rules::error::{Problem, Problems};
use crate::rules::fields::Field;
use crate::rules::file::HealthTable;
use crate::rules::tls::{Tls, Trust, certificates};

/// Files lie relative to `directory`; the name asked for is that of HTTP's `host`, where that is a name and none is given.
pub(super) fn check(
    table: &HealthTable,
    kind: &Spanned<Kind>,
    (directory, host): (&Path, Option<&str>),
    alpn: &[&str],
    problems: &mut Problems,
) -> Option<Tls> {
    let trust = trust(table, kind, directory, problems);
    let of_host = host.map(|host| host.split(':').next().unwrap_or_default().to_owned());
    let of_host = of_host.and_then(|host| ServerName::try_from(host).ok());
    let name = or_default(&table.sni, of_host, problems, |text| {
        ServerName::try_from(text.clone()).map(Some).map_err(|_| {
            Problem::new(format!("{text:?} is not a name of TLS")).help("such as `www.example.org`")
        })
    });
    let (trust, name) = (trust?, name?);
    match Tls::new(trust, name, alpn) {
        Ok(tls) => Some(tls),
        Err(why) => {
            let span = place(&table.ca).unwrap_or_else(|| kind.span());
            problems.push(Problem::new(format!("these certificates are of no use: {why}")).at(span));
            None
        }
    }
}

fn trust(
    table: &HealthTable,
    kind: &Spanned<Kind>,
    directory: &Path,
    problems: &mut Problems,
) -> Option<Trust> {
    let is_insecure = or_default(&table.insecure, false, problems, |&insecure| Ok(insecure))?;
    match (&table.ca, is_insecure) {
        (Field::Absent, true) => Some(Trust::Anybody),
        (Field::Absent, false) => {
            problems.push(
                Problem::new("whose certificates are believed?").at(kind.span()).label("needs `ca` or `insecure`").help(
                    "`ca = \"ca.pem\"` names the certificates that vouch for backends; on Debian \
                     `/etc/ssl/certs/ca-certificates.crt` has those of public CAs; `insecure = true` believes everybody",
                ),
            );
            None
        }
        (Field::Value(ca), true) => {
            problems.push(
                Problem::new("`ca`, and `insecure = true`").at(ca.span()).help("leave one of the two out"),
            );
            None
        }
        (Field::Value(ca), false) => {
            let read = read(ca.get_ref(), directory);
            let trust = problems.take(ca.span(), read)?;
            Some(trust)
        }
        (Field::Unreadable, _) => None,
    }
}

fn read(file: &str, directory: &Path) -> Result<Trust, Problem> {
    let path = directory.join(file);
    let pem =
        fs::read(&path).map_err(|error| Problem::new(format!("cannot read {}: {error}", path.display())))?;
    let certificates = certificates(&pem).map_err(|why| {
        Problem::new(format!("{}: {why}", path.display()))
            .help("certificates in PEM begin `-----BEGIN CERTIFICATE-----`")
    })?;
    Ok(Trust::Ca(file.to_owned(), certificates.into()))
}
