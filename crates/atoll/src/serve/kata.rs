//! What the command line says about the containers of the API under `/api/kata`.

use atoll_server::KataConfig;
use std::time::Duration;

use crate::{
    cli::{DriverKind, Kata},
    failure::Failure,
};

/// The configuration, checked: a server does not begin with one that no container could be made with.
pub fn config(args: &Kata, driver: DriverKind) -> Result<KataConfig, Failure> {
    let mut config = KataConfig { executor: args.executor.template(driver), ..KataConfig::default() };
    if let Some(prefix) = &args.kata_pod_prefix {
        config.pod_name_prefix.clone_from(prefix);
    }
    if let Some(seconds) = args.kata_ready_timeout {
        config.ready_timeout = Duration::from_secs(seconds);
    }
    match config.check() {
        Ok(()) => Ok(config),
        Err(refused) => Err(Failure::Wrong(format!("{}: {}", flag(&refused.field), refused.problem))),
    }
}

/// The flag that gives a field.
fn flag(field: &str) -> &str {
    match field {
        "pod_name_prefix" => "--kata-pod-prefix",
        "ready_timeout" => "--kata-ready-timeout",
        "runtime" => "--kata-runtime-class",
        "image" => "--kata-image",
        "requests.cpu" => "--kata-cpu-request",
        "requests.memory" => "--kata-memory-request",
        "cpu" => "--kata-cpu-limit",
        "memory" => "--kata-memory-limit",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Executor;

    #[test]
    fn unsaid_it_is_as_documented() {
        let config = config(&Kata::default(), DriverKind::Local).unwrap();
        let executor = &config.executor;
        assert_eq!((config.pod_name_prefix.as_str(), config.ready_timeout.as_secs()), ("kata-sandbox", 90));
        assert_eq!((executor.image.as_str(), executor.runtime.as_deref()), ("base", None));
        let sizes = [&executor.requests.cpu, &executor.requests.memory, &executor.cpu, &executor.memory];
        assert_eq!(sizes.map(|size| size.as_deref().unwrap()), ["250m", "128Mi", "1", "512Mi"]);
    }

    #[test]
    fn on_a_cluster_they_are_katas_unless_somebody_says_otherwise() {
        let of = |class: Option<&str>| {
            let executor = Executor { kata_runtime_class: class.map(str::to_owned), ..Executor::default() };
            let config = config(&Kata { executor, ..Kata::default() }, DriverKind::Kubernetes).unwrap();
            assert!(config.executor.image.contains("python"), "{config:?}");
            config.executor.runtime
        };
        assert_eq!(of(None).as_deref(), Some("kata-qemu"));
        assert_eq!(of(Some("gvisor")).as_deref(), Some("gvisor"));
        assert_eq!(of(Some("")), None);
    }

    #[test]
    fn what_cannot_be_names_its_flag() {
        let text = |text: &str| Some(text.to_owned());
        let kata = Kata::default;
        let of = |executor: Executor| Kata { executor, ..kata() };
        let executor = Executor::default;
        for (flag, args) in [
            ("--kata-ready-timeout", Kata { kata_ready_timeout: Some(29), ..kata() }),
            ("--kata-ready-timeout", Kata { kata_ready_timeout: Some(301), ..kata() }),
            ("--kata-pod-prefix", Kata { kata_pod_prefix: text("a_b"), ..kata() }),
            ("--kata-image", of(Executor { kata_image: text(""), ..executor() })),
            ("--kata-runtime-class", of(Executor { kata_runtime_class: text("../x"), ..executor() })),
            ("--kata-cpu-request", of(Executor { kata_cpu_request: text("2"), ..executor() })),
            ("--kata-memory-request", of(Executor { kata_memory_request: text("1Gi"), ..executor() })),
            ("--kata-cpu-limit", of(Executor { kata_cpu_limit: text("0"), ..executor() })),
            ("--kata-memory-limit", of(Executor { kata_memory_limit: text("x"), ..executor() })),
        ] {
            let told = config(&args, DriverKind::Local).unwrap_err().to_string();
            assert!(told.starts_with(flag), "{told}");
        }
    }
}
