//! Commands and code, run to their end and told within bounds.

use atoll_client::{
    CodeEvent, Error, RunCode, Sandbox,
    api::{ExecEvent, ExecExit, ExecRequest},
};
use futures::{Stream, StreamExt};
use rmcp::model::ContentBlock;
use std::{collections::BTreeMap, time::Duration};

use super::{
    bound::{Bounded, bounded},
    inputs::{Code, Language},
    trouble::Trouble,
};

/// Seconds that something may run when nobody says.
pub const USUAL_TIME: u32 = 60;
/// Longest code that is passed as an argument: Linux takes 128 KiB in one (`MAX_ARG_STRLEN`).
const LONGEST_CODE: usize = 120 << 10;
/// Largest picture that is told, in characters of base64.
const LARGEST_PICTURE: usize = 4 << 20;

/// Runs a command and tells its exit code and output.
pub async fn command(sandbox: &Sandbox, request: &ExecRequest) -> Result<Vec<ContentBlock>, Trouble> {
    let mut events = sandbox.exec_stream(request).await?;
    let (mut stdout, mut stderr) = (Bounded::default(), Bounded::default());
    while let Some(event) = events.next().await {
        match event? {
            ExecEvent::Started { .. } => {}
            ExecEvent::Stdout { data } => stdout.push(&data),
            ExecEvent::Stderr { data } => stderr.push(&data),
            ExecEvent::Error { error } => return Err(Error::from_event(error).into()),
            ExecEvent::Exit(exit) => {
                let head = format!("exit code: {}{}\n", exit.exit_code, why(&exit));
                return Ok(vec![ContentBlock::text(head + &outputs(stdout, stderr))]);
            }
        }
    }
    Err(Error::Interrupted.into())
}

fn why(exit: &ExecExit) -> &'static str {
    match exit {
        ExecExit { timed_out: true, .. } => " (killed: its time was up)",
        ExecExit { oom_killed: true, .. } => " (killed: the sandbox had no more memory)",
        _ => "",
    }
}

fn outputs(stdout: Bounded, stderr: Bounded) -> String {
    let part = |name: &str, text: String| match text.is_empty() {
        true => String::new(),
        false => format!("{name}:\n{}\n", text.trim_end_matches('\n')),
    };
    part("stdout", stdout.finish()) + &part("stderr", stderr.finish())
}

/// Runs code in the sandbox's code interpreter, or where it has none by the language's plain one.
pub async fn code(sandbox: &Sandbox, ask: Code) -> Result<Vec<ContentBlock>, Trouble> {
    let seconds = ask.timeout.unwrap_or(USUAL_TIME);
    let request = RunCode { code: ask.code, language: Some(name(ask.language).into()), ..RunCode::default() };
    let limit = Duration::from_secs(seconds.into());
    let interpreted = async {
        match sandbox.run_code(&request).await? {
            Some(events) => shown(events).await.map(Some),
            None => Ok(None),
        }
    };
    let late = || Trouble::Wrong(format!("its {seconds} seconds were up"));
    match tokio::time::timeout(limit, interpreted).await.map_err(|_| late())?? {
        Some(content) => Ok(content),
        None => command(sandbox, &plainly(request.code, ask.language, seconds)?).await,
    }
}

fn name(language: Language) -> &'static str {
    match language {
        Language::Python => "python",
        Language::JavaScript => "javascript",
        Language::Bash => "bash",
    }
}

fn plainly(code: String, language: Language, seconds: u32) -> Result<ExecRequest, Trouble> {
    if code.len() > LONGEST_CODE {
        return Err(Trouble::Wrong(format!(
            "code of more than {LONGEST_CODE} bytes needs a code interpreter, which this sandbox has not: write it to a \
             file with write_file, and run that with exec_command"
        )));
    }
    let (program, option) = match language {
        Language::Python => ("python3", "-c"),
        Language::JavaScript => ("node", "-e"),
        Language::Bash => ("bash", "-c"),
    };
    Ok(ExecRequest { timeout: Some(seconds.into()), ..ExecRequest::of([program, option, &code]) })
}

/// What code wrote, showed and failed with.
async fn shown(
    mut events: impl Stream<Item = Result<CodeEvent, Error>> + Unpin,
) -> Result<Vec<ContentBlock>, Trouble> {
    let (mut stdout, mut stderr) = (Bounded::default(), Bounded::default());
    let (mut results, mut failure) = (Vec::new(), None);
    while let Some(event) = events.next().await {
        match event? {
            CodeEvent::Stdout { text } => stdout.push(&text),
            CodeEvent::Stderr { text } => stderr.push(&text),
            CodeEvent::Result { forms } => results.extend(result(&forms)),
            CodeEvent::Error { name, value, traceback } => {
                failure = Some(format!("{name}: {value}\n{}", bounded(&traceback)));
            }
            CodeEvent::NumberOfExecutions { .. } => {}
        }
    }
    let mut content = Vec::new();
    let written = outputs(stdout, stderr);
    let text = written + &failure.map(|failure| format!("error:\n{failure}")).unwrap_or_default();
    if !text.is_empty() || results.is_empty() {
        content.push(ContentBlock::text(if text.is_empty() {
            "done, without output".to_owned()
        } else {
            text
        }));
    }
    content.extend(results);
    Ok(content)
}

/// A result in the forms that agents can take: pictures, and text in the best form that there is.
fn result(forms: &BTreeMap<String, serde_json::Value>) -> Vec<ContentBlock> {
    let text = |form: &str| forms.get(form).and_then(serde_json::Value::as_str);
    let mut content = Vec::new();
    for (form, kind) in [("png", "image/png"), ("jpeg", "image/jpeg")] {
        if let Some(picture) = text(form).filter(|picture| picture.len() <= LARGEST_PICTURE) {
            content.push(ContentBlock::image(picture.replace('\n', ""), kind));
        }
    }
    let best = ["text", "markdown", "latex", "html", "svg"].into_iter().find_map(text).map(str::to_owned);
    let best = best.or_else(|| forms.get("json").map(ToString::to_string));
    content.extend(best.map(|text| ContentBlock::text(format!("result:\n{}", bounded(&text)))));
    content
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;
    use serde_json::json;

    fn texts(content: &[ContentBlock]) -> Vec<String> {
        content.iter().map(|block| serde_json::to_value(block).unwrap().to_string()).collect()
    }

    fn event(value: serde_json::Value) -> Result<CodeEvent, Error> {
        Ok(serde_json::from_value(value).unwrap())
    }

    #[tokio::test]
    async fn what_code_shows_is_told_in_forms_that_agents_take() {
        let events = [
            event(json!({"type": "stdout", "text": "a\n"})),
            event(json!({"type": "result", "text": "<Figure>", "png": "QU\nJD", "html": "<p>"})),
            event(json!({"type": "error", "name": "E", "value": "v", "traceback": "t"})),
        ];
        let told = texts(&shown(stream::iter(events)).await.unwrap());
        assert!(told[0].contains("stdout:\\na") && told[0].contains("E: v"), "{told:?}");
        assert!(told[1].contains("image/png") && told[1].contains("QUJD"), "{told:?}");
        assert!(told[2].contains("<Figure>") && told.len() == 3, "{told:?}");
        let nothing = texts(&shown(stream::iter([])).await.unwrap());
        assert!(nothing[0].contains("without output"), "{nothing:?}");
    }

    #[test]
    fn code_that_no_argument_can_hold_is_refused() {
        let refused = plainly("x".repeat(LONGEST_CODE + 1), Language::Bash, 1).unwrap_err().to_string();
        assert!(refused.contains("write_file"), "{refused}");
        let request = plainly("1".into(), Language::JavaScript, 5).unwrap();
        assert_eq!(
            (request.command, request.timeout),
            (vec!["node".into(), "-e".into(), "1".into()], Some(5.0))
        );
    }
}
