//! What the command line says about the containers of the API under `/api/kata`.

use atoll_server::KataConfig;
use std::time::Duration;

use crate::{cli::Kata, failure::Failure};

/// The configuration, checked: a server does not begin with one that no container could be made with.
pub fn config(args: &Kata) -> Result<KataConfig, Failure> {
    let mut config = KataConfig::default();
    let replace = |slot: &mut Option<String>, given: &Option<String>| {
        if given.is_some() {
            slot.clone_from(given);
        }
    };
    if let Some(prefix) = &args.kata_pod_prefix {
        config.pod_name_prefix.clone_from(prefix);
    }
    if let Some(seconds) = args.kata_ready_timeout {
        config.ready_timeout = Duration::from_secs(seconds);
    }
    let executor = &mut config.executor;
    if let Some(image) = &args.kata_image {
        executor.image.clone_from(image);
    }
    replace(&mut executor.runtime, &args.kata_runtime_class);
    replace(&mut executor.requests.cpu, &args.kata_cpu_request);
    replace(&mut executor.requests.memory, &args.kata_memory_request);
    replace(&mut executor.cpu, &args.kata_cpu_limit);
    replace(&mut executor.memory, &args.kata_memory_limit);
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

    #[test]
    fn unsaid_it_is_as_documented() {
        let config = config(&Kata::default()).unwrap();
        let executor = &config.executor;
        assert_eq!((config.pod_name_prefix.as_str(), config.ready_timeout.as_secs()), ("kata-sandbox", 90));
        assert_eq!((executor.image.as_str(), executor.runtime.as_deref()), ("base", None));
        let sizes = [&executor.requests.cpu, &executor.requests.memory, &executor.cpu, &executor.memory];
        assert_eq!(sizes.map(|size| size.as_deref().unwrap()), ["250m", "128Mi", "1", "512Mi"]);
    }

    #[test]
    fn what_cannot_be_names_its_flag() {
        let text = |text: &str| Some(text.to_owned());
        let kata = Kata::default;
        for (flag, args) in [
            ("--kata-ready-timeout", Kata { kata_ready_timeout: Some(29), ..kata() }),
            ("--kata-ready-timeout", Kata { kata_ready_timeout: Some(301), ..kata() }),
            ("--kata-pod-prefix", Kata { kata_pod_prefix: text("a_b"), ..kata() }),
            ("--kata-image", Kata { kata_image: text(""), ..kata() }),
            ("--kata-runtime-class", Kata { kata_runtime_class: text("../x"), ..kata() }),
            ("--kata-cpu-request", Kata { kata_cpu_request: text("2"), ..kata() }),
            ("--kata-memory-request", Kata { kata_memory_request: text("1Gi"), ..kata() }),
            ("--kata-cpu-limit", Kata { kata_cpu_limit: text("0"), ..kata() }),
            ("--kata-memory-limit", Kata { kata_memory_limit: text("x"), ..kata() }),
        ] {
            let told = config(&args).unwrap_err().to_string();
            assert!(told.starts_with(flag), "{told}");
        }
    }
}
