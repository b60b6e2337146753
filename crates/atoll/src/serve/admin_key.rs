//! The admin key. That of a data directory: made at the first start, in a file that only its owner reads; the store knows its
//! hash alone. The file is the truth: with another key in it, or none, the old key is revoked at the next start.
//! Servers that share a database share a key that somebody else keeps: a Secret of a cluster.

use atoll_core::{
    key::{ApiKey, DEFAULT_TENANT, Role, hash},
    store::{Store, StoreError},
};
use atoll_server::{World, new_secret};
use std::{fs, io, path::Path};

use super::secret_file;
use crate::failure::Failure;

/// Its name in the data directory.
pub const FILE: &str = "admin.key";
/// The store's name of a key that somebody else keeps.
const GIVEN: &str = "admin key of the platform";
/// Whoever can try keys must not guess one.
const SHORTEST: usize = 24;

/// Makes sure that there is a key, and that it is the one that the store knows.
pub async fn ensure(data: &Path, store: &dyn Store, world: &dyn World) -> Result<(), Failure> {
    let path = data.join(FILE);
    let failed = |source| Failure::file("keep the admin key in", &path, source);
    let made = || Ok(format!("{}\n", new_secret(world)?).into_bytes());
    let text = secret_file::ensure(&path, made).map_err(failed)?;
    let text = String::from_utf8(text).map_err(|error| failed(io::Error::other(error)))?;
    settle(name(data), text.trim(), store, world).await
}

/// Makes sure that the store knows the key of a file that somebody else writes, and none that was in it before.
pub async fn ensure_given(path: &Path, store: &dyn Store, world: &dyn World) -> Result<(), Failure> {
    let failed = |source| Failure::file("read the admin key in", path, source);
    let secret = fs::read_to_string(path).map_err(failed)?;
    let secret = secret.trim();
    if secret.len() < SHORTEST {
        let problem =
            format!("{} holds no admin key: it needs {SHORTEST} characters at least", path.display());
        return Err(Failure::Wrong(problem));
    }
    settle(GIVEN.to_owned(), secret, store, world).await
}

/// Several data directories may share a database: only this one's keys are touched.
async fn settle(name: String, secret: &str, store: &dyn Store, world: &dyn World) -> Result<(), Failure> {
    let failed = |error: StoreError| Failure::Wrong(error.to_string());
    let hashed = hash(secret);
    let mut known = false;
    for key in store.keys(None).await.map_err(failed)? {
        if key.hash == hashed {
            known = true;
        } else if key.name == name && key.role == Role::Admin {
            store.delete_key(&key.id).await.map_err(failed)?;
        }
    }
    if known {
        return Ok(());
    }
    let mut id = [0; 8];
    world.fill(&mut id).map_err(|source| Failure::io("name the admin key", source))?;
    let key = ApiKey {
        id: format!("k{:016x}", u64::from_be_bytes(id)),
        name,
        tenant: DEFAULT_TENANT.into(),
        role: Role::Admin,
        hash: hashed,
        created_at: world.now(),
    };
    match store.put_key(&key).await {
        // Another server was quicker with the same one.
        Err(StoreError::Exists(_)) => Ok(()),
        put => put.map_err(failed),
    }
}

fn name(data: &Path) -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let data = fs::canonicalize(data).unwrap_or_else(|_| data.to_owned());
    format!("{FILE} of {host}:{}", data.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_core::testing::FakeStore;
    use atoll_server::RealWorld;
    use std::os::unix::fs::PermissionsExt;

    async fn started(data: &Path, store: &FakeStore) -> String {
        ensure(data, store, &RealWorld).await.unwrap();
        fs::read_to_string(data.join(FILE)).unwrap().trim().to_owned()
    }

    async fn hashes(store: &FakeStore) -> Vec<String> {
        store.keys(None).await.unwrap().into_iter().map(|key| key.hash).collect()
    }

    #[tokio::test]
    async fn is_made_once_for_its_owner_alone() {
        let (data, store) = (tempfile::tempdir().unwrap(), FakeStore::default());
        let secret = started(data.path(), &store).await;
        let mode = fs::metadata(data.path().join(FILE)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode, secret.len()), (0o600, 44));
        assert_eq!(started(data.path(), &store).await, secret);
        assert_eq!(hashes(&store).await, [hash(&secret)]);
        assert_eq!(fs::read_dir(data.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn another_key_in_the_file_revokes_the_old_one() {
        let (data, store) = (tempfile::tempdir().unwrap(), FakeStore::default());
        let other = tempfile::tempdir().unwrap();
        let neighbour = started(other.path(), &store).await;
        started(data.path(), &store).await;
        fs::remove_file(data.path().join(FILE)).unwrap();
        let second = started(data.path(), &store).await;
        let known = hashes(&store).await;
        assert!(known.len() == 2 && known.contains(&hash(&second)) && known.contains(&hash(&neighbour)));
    }

    #[tokio::test]
    async fn a_given_key_is_shared_and_replaced() {
        let (folder, store) = (tempfile::tempdir().unwrap(), FakeStore::default());
        let path = folder.path().join("admin.key");
        assert!(ensure_given(&path, &store, &RealWorld).await.is_err(), "it must be there");
        fs::write(&path, "short\n").unwrap();
        let refused = ensure_given(&path, &store, &RealWorld).await.unwrap_err().to_string();
        assert!(refused.contains("24 characters"), "{refused}");
        for secret in ["e2b_0123456789abcdef0123456789abcdef", "e2b_another6789abcdef0123456789abcde"] {
            fs::write(&path, format!("{secret}\n")).unwrap();
            for _ in 0..2 {
                ensure_given(&path, &store, &RealWorld).await.unwrap();
                assert_eq!(hashes(&store).await, [hash(secret)]);
            }
        }
    }

    #[tokio::test]
    async fn a_start_that_died_half_way_is_finished() {
        let (data, store) = (tempfile::tempdir().unwrap(), FakeStore::default());
        fs::write(data.path().join("admin.key.new"), "half").unwrap();
        let secret = started(data.path(), &store).await;
        // The file was written, the store was not.
        let empty = FakeStore::default();
        assert_eq!(started(data.path(), &empty).await, secret);
        assert_eq!(hashes(&empty).await, [hash(&secret)]);
        fs::write(data.path().join(FILE), "").unwrap();
        assert!(ensure(data.path(), &empty, &RealWorld).await.is_err());
    }
}
