//! The certificate that the listener shows. It can be replaced while connections run on: certificates end sooner than
//! servers. It must not know where certificates come from.

use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use std::sync::{Arc, PoisonError, RwLock};

use crate::listener::ServeError;

/// Certificate chain and private key, both PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Tls {
    /// The chain, leaf first.
    pub certificate: Vec<u8>,
    /// The key.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// What is shown to whoever connects.
#[derive(Debug)]
pub struct Certificates {
    current: RwLock<Arc<CertifiedKey>>,
}

impl Certificates {
    /// Begins with this one.
    ///
    /// # Errors
    /// [`ServeError::Tls`] where it cannot be read, or where the key is another certificate's.
    pub fn new(tls: &Tls) -> Result<Self, ServeError> {
        Ok(Self { current: RwLock::new(read(tls)?) })
    }

    /// Shows another one from the next connection on. One that cannot be used changes nothing.
    ///
    /// # Errors
    /// As for [`Certificates::new`].
    pub fn replace(&self, tls: &Tls) -> Result<(), ServeError> {
        let next = read(tls)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

fn read(tls: &Tls) -> Result<Arc<CertifiedKey>, ServeError> {
    let refuse = |error: &dyn std::fmt::Display| ServeError::Tls(error.to_string());
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&tls.certificate).collect();
    let chain = chain.map_err(|error| refuse(&error))?;
    if chain.is_empty() {
        return Err(refuse(&"the file of the certificate holds none in PEM form"));
    }
    let key = PrivateKeyDer::from_pem_slice(&tls.key).map_err(|error| refuse(&error))?;
    let provider = rustls::crypto::ring::default_provider();
    let pair = CertifiedKey::from_der(chain, key, &provider).map_err(|error| refuse(&error))?;
    Ok(Arc::new(pair))
}
