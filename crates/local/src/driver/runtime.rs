//! Sandboxes whose template names an OCI runtime: what is different for the driver. Their agents cannot be handed a socket;
//! they listen on their own loopback address and answer only requests that this server has signed.

use rustix::rand::{GetRandomFlags, getrandom};
use std::{
    fs::{self, File},
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use atoll_core::driver::{AgentSigner, BoxStream, DriverError};
use atoll_proto::sign::RequestSigner;

use super::{Inner, agent, blocking, internal};
use crate::{
    net::connect_in,
    oci::{AGENT_PORT, RuntimeError, Through, command::Cli},
    record::Record,
};

/// How long an agent may take to accept a connection.
const PATIENCE: Duration = Duration::from_secs(5);

impl Inner {
    /// Refuses a runtime that cannot be used here.
    pub(super) async fn check_runtime(&self, name: Option<&str>) -> Result<(), DriverError> {
        let Some(name) = name else { return Ok(()) };
        let runtime = self.config.runtimes.find(name).map_err(refused)?;
        blocking(move || runtime.options().map(drop).map_err(refused)).await
    }

    /// How the sandbox is started, when not by our own launcher.
    pub(super) fn through(&self, record: &Record) -> Result<Option<Through>, DriverError> {
        let spec = &record.sandbox.spec;
        let Some(name) = &spec.runtime else { return Ok(None) };
        let runtime = self.config.runtimes.find(name).map_err(refused)?;
        let state = self.runtime_state(name);
        fs::create_dir_all(&state).map_err(internal)?;
        fs::create_dir_all(self.bundles()).map_err(internal)?;
        Ok(Some(Through {
            options: runtime.options().map_err(refused)?,
            program: runtime.program,
            kind: runtime.kind,
            state,
            workplace: self.bundles(),
            cgroup: format!("/{}/{}", self.host.cgroup(), spec.id),
            unified: self.cgroups.version() == 2,
            swap: self.cgroups.limits_swap(),
            limits: spec.limits,
            io_devices: self.io_devices(&spec.limits.io)?,
            public_key: self.key.public_key_hex(),
        }))
    }

    /// An empty directory that every uid may reach, for each helper to mount its bundle on in its own namespace.
    pub(super) fn bundles(&self) -> PathBuf {
        bundles(&self.host.net)
    }

    fn runtime_state(&self, name: &str) -> PathBuf {
        self.config.data.join("run/oci").join(name)
    }

    /// Has the runtime forget the sandbox, in whatever state it is. Safe to repeat.
    pub(super) fn forget_container(&self, record: &Record) -> Result<(), DriverError> {
        let spec = &record.sandbox.spec;
        let Some(name) = &spec.runtime else { return Ok(()) };
        let state = self.runtime_state(name);
        match self.config.runtimes.find(name) {
            Ok(runtime) => {
                let cli = Cli { program: &runtime.program, options: &[], state: &state };
                cli.delete(spec.id.as_str()).map_err(internal)
            }
            // Its processes end by their control group; what it remembered goes here, should it come back.
            Err(_) => remove_entries(&state, spec.id.as_str()).map_err(internal),
        }
    }

    /// Connects to a sandbox's agent.
    pub(super) async fn to_agent(&self, record: &Record) -> io::Result<BoxStream> {
        if record.sandbox.spec.runtime.is_none() {
            return Ok(Box::new(agent::connect(&self.socket(record)).await?));
        }
        let gone = || io::Error::other("it has no process");
        let identity = record.process.as_ref().ok_or_else(gone)?;
        let netns = crate::net::of_process(identity.pid.unsigned_abs())?;
        // Between the process's end and this line, its pid may have become another's.
        identity.open().ok_or_else(gone)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, AGENT_PORT));
        let stream = connect_in(netns.as_fd(), &[address], PATIENCE).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }

    /// How requests to the sandbox's agent are signed, when they must be.
    pub(super) fn signer(&self, record: &Record) -> Option<AgentSigner> {
        record.sandbox.spec.runtime.as_ref()?;
        let (key, id) = (Arc::clone(&self.key), record.sandbox.id().clone());
        Some(Arc::new(move |now_ms, method, target| key.sign(now_ms, id.as_str(), method, target)))
    }
}

/// Where bundles are mounted.
pub fn bundles(net: &crate::net::NetPlan) -> PathBuf {
    net.run_dir().join("oci")
}

fn refused(error: RuntimeError) -> DriverError {
    DriverError::Unsupported(error.to_string())
}

fn remove_entries(directory: &Path, id: &str) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(id) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?
        } else {
            fs::remove_file(entry.path())?
        }
    }
    Ok(())
}

/// The key that requests to agents are signed with; made at the first start.
pub fn agent_key(data: &Path) -> io::Result<RequestSigner> {
    let path = data.join("agent.key");
    let mut secret = [0; 32];
    match File::open(&path) {
        Ok(mut file) => file.read_exact(&mut secret)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            getrandom(&mut secret, GetRandomFlags::empty())?;
            let unfinished = data.join("agent.key.new");
            let mut options = File::options();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
            file.write_all(&secret)?;
            file.sync_all()?;
            fs::rename(unfinished, path)?;
        }
        Err(error) => return Err(error),
    }
    Ok(RequestSigner::new(&secret))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_key_is_made_once_and_for_its_owner_alone() {
        let data = tempfile::tempdir().unwrap();
        let first = agent_key(data.path()).unwrap().public_key_hex();
        assert_eq!(agent_key(data.path()).unwrap().public_key_hex(), first);
        let mode = fs::metadata(data.path().join("agent.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(data.path().join("agent.key"), "short").unwrap();
        assert!(agent_key(data.path()).is_err());
    }

    #[test]
    fn what_a_runtime_remembers_can_be_removed_without_it() {
        let state = tempfile::tempdir().unwrap();
        fs::create_dir(state.path().join("i1")).unwrap();
        fs::write(state.path().join("i1_sandbox.state"), "").unwrap();
        fs::create_dir(state.path().join("i2")).unwrap();
        remove_entries(state.path(), "i1").unwrap();
        let left: Vec<_> = fs::read_dir(state.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
        assert_eq!(left, ["i2"]);
        remove_entries(&state.path().join("none"), "i1").unwrap();
    }
}
