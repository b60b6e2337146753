//! An authority for TLS on one machine: made once, kept in the data directory, good for the names of this server alone. It
//! is never put where the machine would trust it; it only says how that is done.

use atoll_server::Tls;
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, NameConstraints,
};
use std::{
    fs, io,
    net::{Ipv4Addr, Ipv6Addr},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use super::secret_file;
use crate::failure::Failure;

/// Folder of authorities in the data directory, one for each domain.
const FOLDER: &str = "tls-dev";
const CERTIFICATE: &str = "ca.pem";
const KEY: &str = "ca.key";
/// This machine, as every client knows it.
const LOCAL: &str = "localhost";
/// How long the authority lives: whoever trusts it does not want to be asked again soon.
const AUTHORITY_DAYS: i64 = 3650;
/// How long what it certifies lives: browsers take no more than 398 days.
const LEAF_DAYS: i64 = 90;

/// The authority of one domain.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    domain: String,
    certificate: PathBuf,
}

impl Authority {
    /// The authority for `domain` of a data directory, made at the first time.
    pub fn ensure(data: &Path, domain: &str, now: Timestamp) -> Result<Self, Failure> {
        let domain = domain.trim_end_matches('.').to_ascii_lowercase();
        if !domain.contains('.') {
            return Err(Failure::Wrong(format!(
                "--tls-dev: clients accept no wildcard directly below {domain:?}; give --domain atoll.localhost, or another \
                 domain of two words or more"
            )));
        }
        let folder = data.join(FOLDER).join(&domain);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(|source| Failure::file("make", &folder, source))?;
        let (certificate, secret) = (folder.join(CERTIFICATE), folder.join(KEY));
        let key =
            key(&secret, &certificate).map_err(|source| Failure::file("keep a key in", &secret, source))?;
        let params = own_params(&domain, now);
        if !certificate.exists() {
            let pem = params.self_signed(&key).map_err(refused)?.pem();
            write(&certificate, &pem).map_err(|source| Failure::file("write", &certificate, source))?;
        }
        Ok(Self { issuer: Issuer::new(params, key), domain, certificate })
    }

    /// A new certificate for this server's names, and its key.
    pub fn certify(&self, now: Timestamp) -> Result<Tls, Failure> {
        let mut params = CertificateParams::new(names(&self.domain)).map_err(refused)?;
        params.distinguished_name = Default::default();
        params.distinguished_name.push(DnType::CommonName, "Atoll on this machine");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        live(&mut params, now, LEAF_DAYS);
        let key = KeyPair::generate().map_err(refused)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(refused)?;
        Ok(Tls { certificate: certificate.pem().into_bytes(), key: key.serialize_pem().into_bytes() })
    }

    /// What to type so that clients trust this server.
    pub fn how_to_trust(&self) -> String {
        let (file, domain) = (self.certificate.display(), &self.domain);
        let names = names(domain).join(", ");
        format!(
            "This server certifies itself, for {names}.\n\
             Trust it in one shell:\n\
             \x20 export SSL_CERT_FILE={file} REQUESTS_CA_BUNDLE={file} CURL_CA_BUNDLE={file}   # Python, curl, OpenSSL\n\
             \x20 export NODE_EXTRA_CA_CERTS={file}   # Node\n\
             \x20 export ATOLL_CA={file}   # atoll\n\
             or on the whole machine, until the file is removed and the second command repeated:\n\
             \x20 sudo cp {file} /usr/local/share/ca-certificates/atoll-{domain}.crt\n\
             \x20 sudo update-ca-certificates\n"
        )
    }
}

/// The key, made at the first time. A certificate of a key that is lost is of no use to anybody.
fn key(secret: &Path, certificate: &Path) -> io::Result<KeyPair> {
    let made = || {
        match fs::remove_file(certificate) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(KeyPair::generate().map_err(io::Error::other)?.serialize_pem().into_bytes())
    };
    let pem = String::from_utf8(secret_file::ensure(secret, made)?).map_err(io::Error::other)?;
    KeyPair::from_pem(&pem).map_err(io::Error::other)
}

/// Appears with its whole content or not at all.
fn write(path: &Path, pem: &str) -> io::Result<()> {
    let beside = path.with_extension("new");
    fs::write(&beside, pem)?;
    fs::rename(&beside, path)
}

fn own_params(domain: &str, now: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name = Default::default();
    params.distinguished_name.push(DnType::OrganizationName, "Atoll, for development");
    params.distinguished_name.push(DnType::OrganizationalUnitName, domain);
    // Whoever steals the key can speak for these names and no others, whoever trusts it.
    let names = [LOCAL, domain].map(|name| GeneralSubtree::DnsName(name.to_owned()));
    let own = [
        CidrSubnet::from_v4_prefix(Ipv4Addr::LOCALHOST.octets(), 8),
        CidrSubnet::V6(Ipv6Addr::LOCALHOST.octets(), [255; 16]),
    ];
    let permitted_subtrees = names.into_iter().chain(own.map(GeneralSubtree::IpAddress)).collect();
    params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() });
    live(&mut params, now, AUTHORITY_DAYS);
    params
}

fn names(domain: &str) -> Vec<String> {
    let addresses = [Ipv4Addr::LOCALHOST.to_string(), Ipv6Addr::LOCALHOST.to_string()];
    let named = [LOCAL.to_owned(), domain.to_owned(), format!("*.{domain}")];
    named.into_iter().chain(addresses).collect()
}

/// From yesterday, because clocks differ, for so many days.
fn live(params: &mut CertificateParams, now: Timestamp, days: i64) {
    let at = |days: i64| {
        let when = now.saturating_add(SignedDuration::from_hours(24 * days)).unwrap_or(now);
        let date = when.to_zoned(TimeZone::UTC).date();
        rcgen::date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    (params.not_before, params.not_after) = (at(-1), at(days));
}

fn refused(error: rcgen::Error) -> Failure {
    Failure::Wrong(format!("the certificate for development cannot be made: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::{
        RootCertStore,
        client::{WebPkiServerVerifier, danger::ServerCertVerifier},
        pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    };
    use std::{os::unix::fs::PermissionsExt, sync::Arc, time::Duration};

    fn now() -> Timestamp {
        "2026-03-01T12:00:00Z".parse().unwrap()
    }

    fn accepts(ca: &[u8], tls: &Tls, name: &str, at: Timestamp) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let leaf = CertificateDer::from_pem_slice(&tls.certificate).unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let at = UnixTime::since_unix_epoch(Duration::from_secs(at.as_second().unsigned_abs()));
        verifier.verify_server_cert(&leaf, &[], &name, &[], at).is_ok()
    }

    #[test]
    fn it_is_made_once_and_certifies_its_own_names_alone() {
        let data = tempfile::tempdir().unwrap();
        let first = Authority::ensure(data.path(), "Atoll.localhost.", now()).unwrap();
        let ca = fs::read(&first.certificate).unwrap();
        let mode = fs::metadata(first.certificate.with_file_name(KEY)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let later = now() + SignedDuration::from_hours(24 * 400);
        let again = Authority::ensure(data.path(), "atoll.localhost", later).unwrap();
        assert_eq!(fs::read(&again.certificate).unwrap(), ca, "whoever trusts it trusts it on");
        let tls = again.certify(later).unwrap();
        for name in [
            "localhost",
            "atoll.localhost",
            "api.atoll.localhost",
            "80-x.atoll.localhost",
            "127.0.0.1",
            "::1",
        ] {
            assert!(accepts(&ca, &tls, name, later), "{name}");
        }
        for name in ["example.com", "a.b.atoll.localhost", "192.0.2.1"] {
            assert!(!accepts(&ca, &tls, name, later), "{name}");
        }
        let end = later + SignedDuration::from_hours(24 * (LEAF_DAYS + 1));
        assert!(!accepts(&ca, &tls, "localhost", end), "it ends");
        assert_ne!(tls, again.certify(later).unwrap());
    }

    #[test]
    fn what_it_could_be_made_to_sign_for_others_is_worth_nothing() {
        let data = tempfile::tempdir().unwrap();
        let mut authority = Authority::ensure(data.path(), "atoll.localhost", now()).unwrap();
        let ca = fs::read(&authority.certificate).unwrap();
        authority.domain = "example.com".into();
        let forged = authority.certify(now()).unwrap();
        assert!(!accepts(&ca, &forged, "www.example.com", now()));
    }

    #[test]
    fn a_lost_key_makes_another_authority_and_an_empty_one_is_refused() {
        let data = tempfile::tempdir().unwrap();
        let first = Authority::ensure(data.path(), "a.test", now()).unwrap();
        let (ca, key) = (fs::read(&first.certificate).unwrap(), first.certificate.with_file_name(KEY));
        fs::remove_file(&key).unwrap();
        let second = Authority::ensure(data.path(), "a.test", now()).unwrap();
        let other = fs::read(&second.certificate).unwrap();
        assert_ne!(other, ca);
        assert!(accepts(&other, &second.certify(now()).unwrap(), "localhost", now()));
        fs::write(&key, "").unwrap();
        let refused = Authority::ensure(data.path(), "a.test", now()).err().unwrap().to_string();
        assert!(refused.contains("ca.key"), "{refused}");
        let refused = Authority::ensure(data.path(), "localhost", now()).err().unwrap().to_string();
        assert!(refused.contains("--domain"), "{refused}");
    }
}
