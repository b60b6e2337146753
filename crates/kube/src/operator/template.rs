//! Templates: checked, and their images looked up, when they are admitted and not when somebody waits for a sandbox.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
    runtime::controller::Action,
};
use serde_json::json;
use std::{sync::Arc, time::Duration};

use super::{Context, Problem, registry::ImageAnswer};
use crate::{
    convert::template_in,
    crd::{ImageMeta, SandboxTemplate, SandboxTemplateStatus, condition::READY},
};

/// How often a template's tag is looked up again.
const AGAIN: Duration = Duration::from_secs(3600);
/// How soon a registry that gave no answer is asked again.
const SOON: Duration = Duration::from_secs(60);

/// Looks at a template.
///
/// # Errors
/// When the cluster does not answer.
pub async fn reconcile(template: Arc<SandboxTemplate>, context: Arc<Context>) -> Result<Action, Problem> {
    let answer = match verdict(&template) {
        Err(why) => (None, false, "Invalid", why),
        Ok(image) => judged(context.image(&image).await),
    };
    let (image, ready, reason, message) = answer;
    let wait = if reason == "RegistrySilent" { SOON } else { AGAIN };
    let before = template.status.clone().unwrap_or_default();
    let status = next(&before, image, (ready, reason, message), template.metadata.generation);
    if status != before {
        let namespace = template.namespace().unwrap_or_default();
        let api = Api::<SandboxTemplate>::namespaced(context.client.clone(), &namespace);
        let patch = Patch::Merge(json!({ "status": status }));
        context.metrics.wrote();
        api.patch_status(&template.name_any(), &PatchParams::default(), &patch).await?;
        let shared = namespace == context.settings.namespaces.platform;
        context.stir((!shared).then_some(&namespace));
    }
    Ok(Action::requeue(wait))
}

/// Its image, when the recipe is one.
fn verdict(template: &SandboxTemplate) -> Result<String, String> {
    let recipe = template_in(&template.spec).map_err(|invalid| invalid.to_string())?;
    recipe.check().map_err(|invalid| invalid.to_string())?;
    Ok(recipe.image)
}

fn judged(answer: ImageAnswer) -> (Option<ImageMeta>, bool, &'static str, String) {
    match answer {
        ImageAnswer::Found(image) => (Some(image), true, "Admitted", "sandboxes can be made from it".into()),
        ImageAnswer::Missing(why) => (None, false, "ImageNotFound", why),
        ImageAnswer::Silent(why) => {
            let why = format!("its image is not pinned: {why}");
            (None, true, "RegistrySilent", why)
        }
    }
}

fn next(
    before: &SandboxTemplateStatus,
    image: Option<ImageMeta>,
    (ready, reason, message): (bool, &str, String),
    generation: Option<i64>,
) -> SandboxTemplateStatus {
    let value = if ready { "True" } else { "False" };
    let old = before.conditions.iter().find(|it| it.type_ == READY && it.status == value);
    let since = old.map_or_else(|| Time(Timestamp::now()), |it| it.last_transition_time.clone());
    let condition = Condition {
        type_: READY.into(),
        status: value.into(),
        reason: reason.into(),
        message,
        last_transition_time: since,
        observed_generation: generation,
    };
    // A registry that is silent now does not undo what it said before.
    let image = image.or_else(|| before.image.clone().filter(|_| ready));
    SandboxTemplateStatus { observed_generation: generation, image, conditions: vec![condition] }
}
