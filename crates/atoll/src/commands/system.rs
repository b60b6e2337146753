//! `doctor`, `version` and `destroy`: the server and its machine.

use atoll_client::api::Check;
use atoll_local::oci::Runtimes;
use std::path::Path;

use super::{Context, word};
use crate::{
    cli::{Doctor, Registries},
    config::DEFAULT_DATA,
    failure::Failure,
    output, serve,
};

/// `atoll doctor`
pub async fn doctor(context: &Context, args: Doctor) -> Result<(), Failure> {
    if args.fix {
        fix()?;
    }
    let checks = match args.data {
        Some(data) => here(&data, &args.registries).await?,
        None if args.fix => here(Path::new(DEFAULT_DATA), &args.registries).await?,
        None => match context.client.doctor().await {
            Ok(doctor) => doctor.checks,
            Err(error) if error.is_unreachable() => {
                output::complain(&format!(
                    "no server answers at {}: looking at this machine",
                    context.client.url()
                ));
                here(Path::new(DEFAULT_DATA), &args.registries).await?
            }
            Err(error) => return Err(error.into()),
        },
    };
    context.format.print_all(&checks, &["CHECK", "STATUS", "FOUND", "MEND"], row, |check| &check.name)?;
    match checks.iter().any(|check| check.status == "fail") {
        true => Err(Failure::Findings),
        false => Ok(()),
    }
}

fn row(check: &Check) -> Vec<String> {
    vec![
        check.name.clone(),
        check.status.clone(),
        check.detail.clone(),
        check.mend.clone().unwrap_or_default(),
    ]
}

/// The driver's findings, in the words of the API.
async fn here(data: &Path, registries: &Registries) -> Result<Vec<Check>, Failure> {
    // Asking a registry needs a TLS provider; the client has chosen one already.
    let found =
        atoll_local::doctor::doctor(data, &serve::registries(registries)?, &Runtimes::default()).await;
    let check = |check: atoll_core::driver::Check| Check {
        name: check.name,
        status: word(&check.status),
        detail: check.detail,
        mend: check.mend,
    };
    Ok(found.into_iter().map(check).collect())
}

/// What concerns the whole machine is said aloud.
fn fix() -> Result<(), Failure> {
    if atoll_local::net::forwarding() {
        return Ok(());
    }
    atoll_local::net::enable_forwarding().map_err(|error| Failure::Wrong(error.to_string()))?;
    output::complain("switched net.ipv4.ip_forward on until the next boot; a file in /etc/sysctl.d keeps it");
    Ok(())
}

/// `atoll version`
pub async fn version(context: &Context) -> Result<(), Failure> {
    let version = context.client.version().await?;
    context.format.print_one(&version, |found| vec![("server", found.version.clone())], &version.version)
}

/// `atoll destroy`
pub fn destroy(data: &Path, force: bool) -> Result<(), Failure> {
    if !data.is_dir() {
        return Err(Failure::Wrong(format!("{} is no directory", data.display())));
    }
    if !force {
        output::confirm(&format!("destroy every sandbox and image in {}", data.display()))?;
    }
    atoll_local::destroy(data).map_err(|error| Failure::Wrong(error.to_string()))
}
