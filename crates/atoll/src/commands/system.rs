//! `doctor` and `version`: the server and its machine.

use atoll_client::api::Check;

use super::Context;
use crate::failure::Failure;

/// `atoll doctor`
pub async fn doctor(context: &Context) -> Result<(), Failure> {
    let checks = context.client.doctor().await?.checks;
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

/// `atoll version`
pub async fn version(context: &Context) -> Result<(), Failure> {
    let version = context.client.version().await?;
    context.format.print_one(&version, |found| vec![("server", found.version.clone())], &version.version)
}
