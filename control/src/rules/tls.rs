//! What the rules say about TLS, ready to connect with: towards backends, where a CA is read once, with the rules, and however many
//! backends share it; and of the API on TCP.

use std::fmt;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme};
use tokio_rustls::TlsConnector;

/// How a backend is reached by TLS.
#[derive(Clone, PartialEq, Eq)]
pub struct Tls {
    trust: Trust,
    /// The name that is asked for (SNI) and that its certificate must have; none is the address it is reached at.
    pub server_name: Option<ServerName<'static>>,
    connector: Connector,
}

/// Whose certificates are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// Everybody's.
    Anybody,
    /// Those that these certificates vouch for; the name of their file is for people.
    Ca(String, Arc<[CertificateDer<'static>]>),
}

/// Made of the rest, so never a difference by itself.
#[derive(Clone)]
struct Connector(TlsConnector);

impl PartialEq for Connector {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl Eq for Connector {}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tls({self})")
    }
}

impl fmt::Display for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.trust {
            Trust::Anybody => f.write_str("any certificate")?,
            Trust::Ca(file, _) => write!(f, "certificate by {file}")?,
        }
        match &self.server_name {
            Some(name) => write!(f, " for {}", name.to_str()),
            None => Ok(()),
        }
    }
}

/// The certificates in a PEM file.
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err("there is no certificate in it".to_owned()),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(format!("it is no PEM: {error}")),
    }
}

impl Tls {
    /// TLS with this trust that speaks `alpn`, if that says anything.
    ///
    /// # Errors
    /// What is wrong with a certificate, in words.
    pub(super) fn new(
        trust: Trust,
        server_name: Option<ServerName<'static>>,
        alpn: &[&str],
    ) -> Result<Self, String> {
        let provider = Arc::new(ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match &trust {
            Trust::Anybody => Arc::new(Believing(Arc::clone(&provider))),
            Trust::Ca(_, certificates) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates.iter() {
                    roots.add(certificate.clone()).map_err(|error| error.to_string())?;
                }
                let builder =
                    WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::clone(&provider));
                builder.build().map_err(|error| error.to_string())?
            }
        };
        let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut config = versions
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Ok(Self { trust, server_name, connector: Connector(TlsConnector::from(Arc::new(config))) })
    }

    /// What makes connections.
    pub fn connector(&self) -> &TlsConnector {
        &self.connector.0
    }
}

/// What the API on TCP shows, and whom it believes.
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    /// The files as they were read: what makes it another one.
    files: Arc<[Vec<u8>; 3]>,
}

impl PartialEq for ServerTls {
    fn eq(&self, other: &Self) -> bool {
        self.files == other.files
    }
}

impl Eq for ServerTls {}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerTls")
    }
}

impl ServerTls {
    /// With its certificate, its private key and the certificates that vouch for clients, each in PEM.
    ///
    /// # Errors
    /// What is wrong with which of them, in words.
    pub(super) fn new(certificate: Vec<u8>, key: Vec<u8>, client_ca: Vec<u8>) -> Result<Self, String> {
        let provider = Arc::new(ring::default_provider());
        let chain = certificates(&certificate).map_err(|why| format!("`certificate`: {why}"))?;
        let private = PrivateKeyDer::from_pem_slice(&key)
            .map_err(|error| format!("`key`: it holds no private key in PEM: {error}"))?;
        let mut roots = RootCertStore::empty();
        for root in certificates(&client_ca).map_err(|why| format!("`client_ca`: {why}"))? {
            roots.add(root).map_err(|error| format!("`client_ca`: {error}"))?;
        }
        let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider));
        let clients = clients.build().map_err(|error| format!("`client_ca`: {error}"))?;
        let versions = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = versions
            .map_err(|error| error.to_string())?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, private)
            .map_err(|error| format!("`certificate` and `key`: {error}"))?;
        Ok(Self { config: Arc::new(config), files: Arc::new([certificate, key, client_ca]) })
    }

    /// As connections need it.
    pub fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }
}

/// Believes whatever certificate it is shown (`insecure = true`); whoever shows it must have its key all the same.
#[derive(Debug)]
struct Believing(Arc<CryptoProvider>);

impl ServerCertVerifier for Believing {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
