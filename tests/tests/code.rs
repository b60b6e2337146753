//! Code in sandboxes of the image `code`, as clients of the code interpreter have it run: by the service on port 49999, cell by
//! cell. It must not know how the service does it.

use anyhow::{Context, Result, ensure};
use atoll_proto::api::CreateSandbox;
use atoll_tests::{Options, Run, Server, http::Answer, server::wait_until, story};
use futures::StreamExt;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use std::process::ExitCode;

fn main() -> ExitCode {
    story("code", async |run: &mut Run| {
        let server = Server::start(Options { images: vec!["code".into()], ..Options::default() }).await?;
        server.needs_one_machine("the image is made from packages here")?;
        let ask = CreateSandbox { template: Some("code-interpreter-v1".into()), ..CreateSandbox::default() };
        let id = server.create_with(ask).await?.id;
        let code = Code { server: &server, id };
        run.case("it_answers_when_the_sandbox_is_there", answers(&code)).await;
        languages(run, &code).await;
        results(run, &code).await;
        run.case("contexts_come_and_go", contexts(&code)).await;
        run.case("who_leaves_interrupts", interrupts(&code)).await;
        run.case("a_kernel_that_ends_is_told_and_begun_anew", kernel_ends(&code)).await;
        run.case("the_service_comes_back", service_ends(&code)).await;
        run.case("what_is_killed_by_name_comes_back", killed_by_name(&code)).await;
        run.case("bad_requests_say_why", bad_requests(&code)).await;
        run.case("nothing_is_left_behind", server.close()).await;
        Ok(())
    })
}

async fn languages(run: &mut Run, code: &Code<'_>) {
    run.case("python_keeps_what_it_was_told", python(code)).await;
    run.case("javascript_waits_imports_and_declares_again", javascript(code)).await;
    run.case("typescript_has_types", typescript(code)).await;
    run.case("bash_keeps_its_directory", bash(code)).await;
    run.case("r_shows_values_and_pictures", r(code)).await;
    run.case("packages_that_code_imports", packages(code)).await;
    run.case("variables_for_one_execution", variables(code)).await;
    run.case("the_users_files_and_sudo", user(code)).await;
}

async fn results(run: &mut Run, code: &Code<'_>) {
    run.case("results_of_every_kind", kinds(code)).await;
    run.case("tables_as_data", tables(code)).await;
    run.case("lists_and_dictionaries_as_json", lists(code)).await;
    run.case("images_that_are_shown_or_saved", images(code)).await;
    run.case("charts_as_data", charts(code)).await;
    run.case("output_comes_as_it_is_written", streamed(code)).await;
}

/// The service of one sandbox.
struct Code<'a> {
    server: &'a Server,
    id: String,
}

/// What an execution told.
struct Told(Vec<Value>);

impl Code<'_> {
    fn request(&self, method: Method, path: &str) -> Result<RequestBuilder> {
        let request = self.server.http()?.request(method, path);
        Ok(request.header("E2b-Sandbox-Id", &self.id).header("E2b-Sandbox-Port", "49999"))
    }

    async fn call(&self, method: Method, path: &str, body: Value) -> Result<Answer> {
        Answer::of(self.request(method, path)?.json(&body).send().await?).await
    }

    async fn begin(&self, ask: &Value) -> Result<Response> {
        Ok(self.request(Method::POST, "/execute")?.json(ask).send().await?)
    }

    async fn execute(&self, ask: Value) -> Result<Told> {
        let answer = self.begin(&ask).await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status == 200, "{ask}: {status} {text}");
        let mut events = text
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<Vec<Value>, _>>()
            .context(text.clone())?;
        ensure!(events.pop() == Some(json!({"type": "end_of_execution"})), "{ask}: {text}");
        Ok(Told(events))
    }

    async fn python(&self, code: &str) -> Result<Told> {
        self.execute(json!({"code": code})).await
    }

    async fn run(&self, language: &str, code: &str) -> Result<Told> {
        self.execute(json!({"code": code, "language": language})).await
    }
}

impl Told {
    fn of(&self, kind: &str) -> Vec<&Value> {
        self.0.iter().filter(|event| event["type"] == kind).collect()
    }

    /// The text of the last line's value.
    fn text(&self) -> &str {
        let main = self.of("result").into_iter().find(|result| result["is_main_result"] == true);
        main.and_then(|result| result["text"].as_str()).unwrap_or_default()
    }

    fn output(&self, stream: &str) -> String {
        self.of(stream).iter().filter_map(|event| event["text"].as_str()).collect()
    }

    fn error(&self) -> (&str, &str) {
        let error = self.of("error").first().copied().unwrap_or(&Value::Null);
        (error["name"].as_str().unwrap_or_default(), error["value"].as_str().unwrap_or_default())
    }

    fn count(&self) -> Option<i64> {
        self.of("number_of_executions").first()?["execution_count"].as_i64()
    }

    fn is(&self, text: &str) -> Result<()> {
        ensure!(self.text() == text && self.of("error").is_empty(), "{text} is wanted: {:?}", self.0);
        Ok(())
    }
}

async fn answers(code: &Code<'_>) -> Result<()> {
    code.call(Method::GET, "/health", Value::Null).await?.expect(200)?;
    code.python("1 + 1").await?.is("2")?;
    let contexts = code.call(Method::GET, "/contexts", Value::Null).await?.expect(200)?;
    let languages: Vec<_> = contexts.as_array().into_iter().flatten().map(|it| &it["language"]).collect();
    ensure!(languages == ["python", "javascript"], "{contexts}");
    ensure!(contexts[0]["cwd"] == "/home/user", "{contexts}");
    Ok(())
}

async fn python(code: &Code<'_>) -> Result<()> {
    let first = code.python("x = 'text'\nx").await?;
    first.is("text")?;
    let second = code.python("import sys\nprint(x)\nprint('wrong', file=sys.stderr)").await?;
    ensure!((second.output("stdout"), second.output("stderr")) == ("text\n".into(), "wrong\n".into()));
    ensure!(second.of("stdout")[0]["timestamp"].as_i64().is_some_and(|at| at > 1_700_000_000_000_000_000));
    ensure!(second.count() == first.count().map(|count| count + 1), "executions are counted");
    let failed = code.python("1 / 0").await?;
    ensure!(failed.error() == ("ZeroDivisionError", "division by zero"));
    ensure!(failed.of("error")[0]["traceback"].as_str().is_some_and(|it| it.contains("ZeroDivisionError")));
    ensure!(code.python("!pwd").await?.output("stdout").trim() == "/home/user");
    code.python("import asyncio\nawait asyncio.sleep(0, 'waited')").await?.is("waited")
}

async fn javascript(code: &Code<'_>) -> Result<()> {
    for (cell, text) in [
        ("const add = (x, y) => x + y;\nadd(1, 2);", "3"),
        ("const x = 1", ""),
        ("const x = 2; x", "2"),
        ("async function main() { return 'Hello' }\nawait main()", "Hello"),
        ("main.name", "main"),
        ("const { sep, join: glue } = await import('node:path'); sep", "/"),
        ("import { basename } from 'node:path'\nbasename('/a/b')", "b"),
        ("glue(sep, basename('/a/c'))", "/c"),
        ("class A { hi() { return [1] } }\nnew A().hi()", "[ 1 ]"),
        ("{ a: 1 }", "{ a: 1 }"),
        ("process.cwd()", "/home/user"),
        ("undefined", ""),
    ] {
        code.run("js", cell).await?.is(text).context(cell)?;
    }
    let told = code.run("javascript", "console.log('Hello, World!'); console.error('no')").await?;
    ensure!((told.output("stdout"), told.output("stderr")) == ("Hello, World!\n".into(), "no\n".into()));
    let failed = code.run("javascript", "null.x").await?;
    ensure!(failed.error().0 == "TypeError", "{:?}", failed.0);
    ensure!(code.run("javascript", "this is no script").await?.error().0 == "SyntaxError");
    Ok(())
}

async fn typescript(code: &Code<'_>) -> Result<()> {
    let cell =
        "function subtract(x: number, y: number): number {\n  return x - y;\n}\nsubtract(1, 2) as number";
    code.run("ts", cell).await?.is("-1")?;
    code.run("typescript", "import * as fs from 'node:fs'; typeof fs.statSync").await?.is("function")?;
    ensure!(code.run("ts", "let x: = 1").await?.error().0 == "SyntaxError");
    Ok(())
}

async fn bash(code: &Code<'_>) -> Result<()> {
    code.run("bash", "cd /tmp\nkept='a word'").await?;
    let told = code.run("bash", "pwd; echo \"$kept\"; cat; ls /nowhere").await?;
    ensure!(told.output("stdout") == "/tmp\na word\n", "{:?}", told.0);
    ensure!(told.output("stderr").contains("/nowhere"));
    ensure!(told.error() == ("ExitStatus", "2"), "{:?}", told.0);
    ensure!(code.run("bash", "if then").await?.error().0 == "ExitStatus");
    Ok(())
}

async fn r(code: &Code<'_>) -> Result<()> {
    let told = code.run("r", "x <- c(1, 2)\nprint('Hello')\nx").await?;
    ensure!(told.output("stdout") == "[1] \"Hello\"\n", "{:?}", told.0);
    let shown = told.of("result").first().context("no value")?["text"].as_str().map(str::to_owned);
    ensure!(shown.as_deref() == Some("[1] 1 2"), "{:?}", told.0);
    let told = code.run("R", "plot(x)").await?;
    ensure!(told.of("result").iter().any(|it| it["png"].is_string()), "{:?}", told.0);
    ensure!(code.run("r", "stop('no')").await?.error().1.contains("no"));
    let ask = json!({"language": "r", "cwd": "/tmp"});
    let made = code.call(Method::POST, "/contexts", ask).await?.expect(200)?;
    let told = code.execute(json!({"code": "cat(getwd())", "context_id": made["id"]})).await?;
    ensure!(told.output("stdout") == "/tmp", "{:?}", told.0);
    Ok(())
}

/// Imports what images/code/recipe.toml promises, by the names that code knows.
async fn packages(code: &Code<'_>) -> Result<()> {
    let cell = "import aiohttp, bs4, bokeh, cv2, docx, imageio, joblib, matplotlib, nltk, numpy, openpyxl, orjson, pandas, PIL, plotly, \
                pytest, pytz, requests, scipy, seaborn, skimage, sklearn, soundfile, sympy, textblob, urllib3, xarray, xlrd\n\
                sympy.sqrt(8)";
    code.python(cell).await?.is("2*sqrt(2)")?;
    code.python("pandas.DataFrame({'a': [1, 2]}).a.dtype.name, len(pandas.__version__.split('.'))")
        .await?
        .is("('int64', 3)")?;
    let boxes = chart(code, "plt.boxplot([[1, 2, 3]], labels=['A'])").await?;
    ensure!(boxes["elements"][0]["label"] == "A", "{boxes}");
    Ok(())
}

async fn variables(code: &Code<'_>) -> Result<()> {
    for (language, cell) in [
        ("python", "import os; print(os.getenv('FOO', 'none'))"),
        ("js", "console.log(process.env.FOO || 'none')"),
        ("bash", "echo \"${FOO:-none}\""),
        ("r", "cat(Sys.getenv('FOO', 'none'), '\\n', sep = '')"),
    ] {
        let ask = json!({"code": cell, "language": language, "env_vars": {"FOO": "it's \"here\""}});
        ensure!(code.execute(ask).await?.output("stdout") == "it's \"here\"\n", "{language}");
        ensure!(code.run(language, cell).await?.output("stdout") == "none\n", "{language}");
    }
    Ok(())
}

async fn user(code: &Code<'_>) -> Result<()> {
    code.python("open('note.txt', 'w').write('kept')").await?.is("4")?;
    ensure!(code.server.output(&code.id, &["cat", "/home/user/note.txt"]).await? == "kept");
    ensure!(
        code.python("!whoami && sudo whoami").await?.output("stdout").replace('\r', "") == "user\nroot\n"
    );
    Ok(())
}

async fn kinds(code: &Code<'_>) -> Result<()> {
    let cell = "from IPython.display import *\n\
                display(Markdown('# a'), HTML('<b>'), Latex('$x$'), JSON({'a': 1}), Javascript('1'), SVG('<svg/>'))\n\
                class Odd:\n  def _repr_mimebundle_(self, **_):\n    \
                return {'application/pdf': 'cGRm', 'image/jpeg': 'anBn', 'my/type': 'mine', 'text/plain': 'odd'}\nOdd()";
    let told = code.python(cell).await?;
    let displayed = told.of("result");
    for (at, (field, value)) in [
        ("markdown", json!("# a")),
        ("html", json!("<b>")),
        ("latex", json!("$x$")),
        ("json", json!({"a": 1})),
        ("javascript", json!("1")),
        ("svg", json!("<svg/>")),
    ]
    .into_iter()
    .enumerate()
    {
        let found = displayed.get(at).context("too few results")?;
        ensure!((&found[field], &found["is_main_result"]) == (&value, &json!(false)), "{found}");
    }
    let wanted = json!({"type": "result", "is_main_result": true, "pdf": "cGRm", "jpeg": "anBn", "text": "odd",
                        "extra": {"my/type": "mine"}});
    ensure!(displayed.last() == Some(&&wanted), "{:?}", displayed.last());
    Ok(())
}

async fn tables(code: &Code<'_>) -> Result<()> {
    let cell = "import pandas as pd\npd.DataFrame({'a': [1, 2.5, None], 'd': pd.date_range('2024-01-01', periods=3)})";
    let told = code.python(cell).await?;
    let data = &told.of("result").first().context("no result")?["data"];
    let days = ["2024-01-01T00:00:00", "2024-01-02T00:00:00", "2024-01-03T00:00:00"];
    ensure!(*data == json!({"a": [1.0, 2.5, null], "d": days}), "{data}");
    Ok(())
}

async fn lists(code: &Code<'_>) -> Result<()> {
    let cell = "import datetime, numpy\n{'a': [1, None, float('nan')], 2: (True, numpy.arange(2)), 'd': datetime.date(2024, 1, 2)}";
    let told = code.python(cell).await?;
    let found = &told.of("result").first().context("no result")?["json"];
    let wanted = json!({"a": [1, null, null], "2": [true, [0, 1]], "d": "2024-01-02"});
    ensure!(*found == wanted, "{found}");
    for cell in
        ["{'a': object()}", "itself = []\nitself.append(itself)\nitself", "{(1, 2): 3}", "{1, 2}", "'text'"]
    {
        let told = code.python(cell).await?;
        let result = told.of("result").first().copied().context("no result")?;
        ensure!(result["json"].is_null() && result["text"].is_string(), "{cell}: {result}");
    }
    Ok(())
}

async fn images(code: &Code<'_>) -> Result<()> {
    let cell =
        "from PIL import Image\nimage = Image.new('RGB', (2, 2))\nimage.show()\nimage.save('x.png')\nimage";
    let told = code.python(cell).await?;
    let shown = told.of("result");
    ensure!(shown.len() == 3, "{:?}", told.0);
    ensure!(shown.iter().all(|it| it["png"].as_str().is_some_and(|png| png.starts_with("iVBOR"))));
    Ok(())
}

/// Plots, and returns the chart of the only result that shows one, which has its picture, too.
async fn chart(code: &Code<'_>, lines: &str) -> Result<Value> {
    let cell = format!("import datetime\nimport matplotlib.pyplot as plt\n{lines}\nplt.show()");
    let told = code.python(&cell).await?;
    let results = told.of("result");
    ensure!(results.len() == 1, "{lines}: {:?}", told.0);
    ensure!(results[0]["png"].as_str().is_some_and(|png| png.starts_with("iVBOR")), "{lines}");
    Ok(results[0]["chart"].clone())
}

async fn charts(code: &Code<'_>) -> Result<()> {
    let line = chart(
        code,
        "days = [datetime.date(2024, 1, 1), datetime.date(2024, 1, 3)]\nplt.plot(days, [1, 2], label='l')\n\
         plt.title('Days')\nplt.xlabel('Time (d)')\nplt.grid(True)",
    )
    .await?;
    ensure!(
        (&line["type"], &line["x_scale"], &line["y_scale"])
            == (&json!("line"), &json!("datetime"), &json!("linear"))
    );
    ensure!(
        (&line["title"], &line["x_unit"], &line["y_label"]) == (&json!("Days"), &json!("d"), &Value::Null)
    );
    let points = json!([["2024-01-01", 1.0], ["2024-01-03", 2.0]]);
    ensure!(line["elements"] == json!([{"label": "l", "points": points}]), "{line}");

    let scatter = chart(code, "plt.scatter([1, 10], [3, 4], label='s')\nplt.xscale('log')").await?;
    ensure!((&scatter["type"], &scatter["x_scale"]) == (&json!("scatter"), &json!("log")), "{scatter}");
    ensure!(scatter["elements"] == json!([{"label": "s", "points": [[1.0, 3.0], [10.0, 4.0]]}]), "{scatter}");

    let bars = json!([
        {"label": "A", "group": "Group 0", "value": 1.0},
        {"label": "B", "group": "Group 0", "value": 1.0},
    ]);
    for draw in ["bar", "barh"] {
        let bar = chart(code, &format!("plt.{draw}(['A', 'B'], [1, 1])")).await?;
        ensure!((&bar["type"], &bar["elements"]) == (&json!("bar"), &bars), "{bar}");
    }

    let pie = chart(code, "plt.pie([1, 3], labels=['a', 'b'])").await?;
    let wedges =
        json!([{"label": "a", "angle": 90.0, "radius": 1.0}, {"label": "b", "angle": 270.0, "radius": 1.0}]);
    ensure!((&pie["type"], &pie["elements"]) == (&json!("pie"), &wedges), "{pie}");

    let twice = "plt.boxplot([[1, 2, 3, 4, 5, 20]])\nplt.boxplot([[1, 2, 3, 4, 5, 20]], patch_artist=True)\nplt.xticks([1], ['A'])";
    let boxes = chart(code, twice).await?;
    let wanted = json!([{"label": "A", "min": 1.0, "first_quartile": 2.25, "median": 3.5, "third_quartile": 4.75,
                         "max": 5.0, "outliers": [20.0]}]);
    ensure!((&boxes["type"], &boxes["elements"]) == (&json!("box_and_whisker"), &wanted), "{boxes}");

    let both = chart(
        code,
        "figure, axes = plt.subplots(1, 2)\nfigure.suptitle('S')\naxes[0].plot([1, 2])\naxes[1].scatter([1], [2])",
    )
    .await?;
    let parts: Vec<_> = both["elements"].as_array().into_iter().flatten().map(|it| &it["type"]).collect();
    ensure!((&both["type"], &both["title"]) == (&json!("superchart"), &json!("S")), "{both}");
    ensure!(parts == ["line", "scatter"], "{both}");

    let other = chart(code, "plt.gca().add_artist(plt.Circle((0, 0), 1))\nplt.title('O')").await?;
    ensure!(other == json!({"type": "unknown", "title": "O", "elements": []}) || other.is_null(), "{other}");
    Ok(())
}

async fn streamed(code: &Code<'_>) -> Result<()> {
    let cell = "import os, time\nprint('begun', flush=True)\n\
                while not os.path.exists('/tmp/go-on'):\n    time.sleep(0.01)\nprint('ended')";
    let mut stream = code.begin(&json!({"code": cell})).await?.bytes_stream();
    let mut text = String::new();
    while !text.contains("begun") {
        text += &String::from_utf8_lossy(&stream.next().await.context("no output")??);
    }
    ensure!(!text.contains("ended"), "{text}");
    code.server.output(&code.id, &["touch", "/tmp/go-on"]).await?;
    while let Some(piece) = stream.next().await {
        text += &String::from_utf8_lossy(&piece?);
    }
    ensure!(text.contains("ended"), "{text}");
    Ok(())
}

async fn contexts(code: &Code<'_>) -> Result<()> {
    let ask = json!({"language": "python", "cwd": "/home/user/deep/down"});
    let made = code.call(Method::POST, "/contexts", ask).await?.expect(200)?;
    let id = made["id"].as_str().context("no id")?;
    ensure!(
        (&made["language"], &made["cwd"]) == (&json!("python"), &json!("/home/user/deep/down")),
        "{made}"
    );
    let listed = code.call(Method::GET, "/contexts", Value::Null).await?.expect(200)?;
    ensure!(listed.as_array().and_then(|all| all.last()) == Some(&made), "{listed}");
    let within = |cell: &str| json!({"code": cell, "context_id": id});
    code.execute(within("import os; own = 1; os.getcwd()")).await?.is("/home/user/deep/down")?;
    ensure!(code.python("own").await?.error().0 == "NameError", "contexts are apart");
    let waiting = code.begin(&within("print('waits', flush=True)\nimport time; time.sleep(600)")).await?;
    code.call(Method::POST, &format!("/contexts/{id}/restart"), Value::Null).await?.expect(200)?;
    ensure!(waiting.text().await?.contains("ContextRestarting"), "what runs is told");
    ensure!(code.execute(within("own")).await?.error().0 == "NameError", "its variables are gone");
    code.call(Method::POST, "/contexts", json!({"cwd": "/root"})).await?.expect(200)?;
    code.call(Method::DELETE, &format!("/contexts/{id}"), Value::Null).await?.expect(200)?;
    for (method, path) in [(Method::DELETE, ""), (Method::POST, "/restart")] {
        code.call(method, &format!("/contexts/{id}{path}"), Value::Null).await?.expect(404)?;
    }
    code.call(Method::POST, "/execute", within("1")).await?.expect(404).map(drop)
}

async fn interrupts(code: &Code<'_>) -> Result<()> {
    for (language, cell, after) in [
        ("python", "before = 'kept'; print('begun', flush=True)\nwhile True: pass", "print(before)"),
        ("js", "globalThis.before = 'kept'; console.log('begun'); while (true) {}", "console.log(before)"),
        (
            "js",
            "console.log('begun'); await new Promise(() => setTimeout(() => {}, 6e5))",
            "console.log(before)",
        ),
        ("js", "for (;;) console.log('begun')", "console.log(before)"),
        ("bash", "before=kept; echo begun; while :; do sleep 1; done", "echo $before"),
        (
            "r",
            "before <- 'kept'; cat('begun\\n'); while (TRUE) Sys.sleep(0.1)",
            "cat(before, '\\n', sep = '')",
        ),
    ] {
        let mut stream = code.begin(&json!({"code": cell, "language": language})).await?.bytes_stream();
        let mut text = String::new();
        while !text.contains("begun") {
            let piece = stream.next().await.with_context(|| format!("{cell} told only {text:?}"))?;
            text += &String::from_utf8_lossy(&piece?);
        }
        drop(stream);
        let told = code.run(language, after).await?;
        ensure!(told.output("stdout") == "kept\n", "{cell}: {:?}", told.0);
    }
    Ok(())
}

async fn kernel_ends(code: &Code<'_>) -> Result<()> {
    for (language, cell, after) in [
        ("python", "import os; os.kill(os.getpid(), 9)", "print('here')"),
        ("js", "process.exit(3)", "console.log('here')"),
        ("bash", "exit 3", "echo here"),
        ("r", "tools::pskill(Sys.getpid(), 9)", "cat('here\\n')"),
    ] {
        let told = code.run(language, cell).await?;
        ensure!(told.error().0 == "ContextRestarting", "{language}: {:?}", told.0);
        ensure!(code.run(language, after).await?.output("stdout") == "here\n", "{language}");
    }
    Ok(())
}

/// By the names that the service and its kernels have where its clients come from.
async fn killed_by_name(code: &Code<'_>) -> Result<()> {
    for name in ["jupyter-serve[r]", "uvicorn main:ap[p]"] {
        code.server.output(&code.id, &["pkill", "-9", "-f", name]).await?;
        wait_until("code runs again", async || {
            Ok(code.python("1 + 1").await.is_ok_and(|it| it.text() == "2"))
        })
        .await?;
    }
    Ok(())
}

async fn service_ends(code: &Code<'_>) -> Result<()> {
    code.python("x = 1").await?;
    code.server.output(&code.id, &["pkill", "-9", "-f", "atoll-code/main.p[y]"]).await?;
    wait_until(
        "the service answers again",
        async || Ok(code.python("'x' in dir()").await?.text() == "False"),
    )
    .await?;
    wait_until("the kernel before it is gone", async || {
        let kernels = code.server.output(&code.id, &["pgrep", "-c", "-f", "kernel/python.p[y]"]).await?;
        Ok(kernels == "1")
    })
    .await
}

async fn bad_requests(code: &Code<'_>) -> Result<()> {
    for (ask, reason) in [
        (json!({"code": "1", "language": "cobol"}), "Languages: python, javascript, typescript, bash"),
        (json!({"code": 1}), "`code`"),
        (json!({"language": "js"}), "`code`"),
        (json!({"code": "1", "context_id": "x", "language": "js"}), "Only one"),
        (json!({"code": "1", "env_vars": {"A=B": "c"}}), "`env_vars`"),
        (json!({"code": "1", "env_vars": {"A": 1}}), "`env_vars`"),
        (json!([]), "object"),
    ] {
        let body = code.call(Method::POST, "/execute", ask.clone()).await?.expect(400)?;
        ensure!(body.as_str().is_some_and(|text| text.contains(reason)), "{ask}: {body}");
    }
    let sent = code.request(Method::POST, "/execute")?.body("{").send().await?;
    ensure!(sent.status() == 400);
    let ask = json!({"cwd": "/proc/nowhere"});
    let body = code.call(Method::POST, "/contexts", ask).await?.expect(500)?;
    ensure!(body.as_str().is_some_and(|text| text.contains("working directory")), "{body}");
    code.call(Method::GET, "/nowhere", Value::Null).await?.expect(404).map(drop)
}
