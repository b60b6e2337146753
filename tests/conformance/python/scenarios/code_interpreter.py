"""The code interpreter."""
import json

from harness import scenario

PACKAGE = "e2b_code_interpreter"

# Of a cluster, whose images come from registries alone.
NO_IMAGE = ("the cluster allows no image of it: servers on one machine make it of packages, and whoever has a registry can push it "
            "there")


def tried(function):
    return scenario("code-interpreter", package=PACKAGE, patience=150)(function)


async def interpreter(t, **options):
    """A sandbox of the interpreter's template; skips where the server has none."""
    import os

    options.setdefault("timeout", 280)
    try:
        return t.later(await t.Sandbox.create(os.environ.get("CONFORMANCE_CODE_TEMPLATE"), **options))
    except t.exception("SandboxException") as error:
        if "does not exist" in str(error):
            t.skip(f"the server has no such template: {error}")
        if "is not one of this tenant's" in str(error):
            t.skip(NO_IMAGE)
        raise


@tried
async def a_result_is_the_last_expression(t):
    sandbox = await interpreter(t)
    done = await sandbox.run_code("x = 1; x + 41")
    t.equal((done.text, done.error, done.logs.stdout), ("42", None, []), "the execution")
    t.check(done.results[0].is_main_result, "is_main_result")
    t.equal(done.execution_count, 1, "execution_count")
    t.equal((await sandbox.run_code("x")).text, "1", "state is kept")
    t.equal((await sandbox.run_code("x")).execution_count, 3, "execution_count goes on")


@tried
async def output_comes_as_it_is_written(t):
    sandbox, out, err, results, errors = await interpreter(t), [], [], [], []
    done = await sandbox.run_code("import sys\nprint('out')\nprint('err', file=sys.stderr)\n7",
                                  on_stdout=out.append, on_stderr=err.append, on_result=results.append, on_error=errors.append)
    t.equal(("".join(done.logs.stdout), "".join(done.logs.stderr)), ("out\n", "err\n"), "the logs")
    t.equal((out[0].line, out[0].error, err[0].error), ("out\n", False, True), "what the callbacks saw")
    t.check(out[0].timestamp > 0, "a timestamp")
    t.equal((results[0].text, errors), ("7", []), "the result's callback")


@tried
async def errors_have_name_value_and_traceback(t):
    sandbox, errors = await interpreter(t), []
    done = await sandbox.run_code("1/0", on_error=errors.append)
    t.equal((done.error.name, done.error.value), ("ZeroDivisionError", "division by zero"), "the error")
    t.contains(done.error.traceback, "ZeroDivisionError", "the traceback")
    t.equal(errors[0].name, "ZeroDivisionError", "the callback's")
    t.equal((await sandbox.run_code("2")).text, "2", "it goes on")


@tried
async def rich_results(t):
    sandbox = await interpreter(t)
    done = await sandbox.run_code("""
from IPython.display import display, HTML, Markdown, SVG, JSON, Latex, Javascript
display(HTML('<b>bold</b>')); display(Markdown('# title')); display(JSON({'a': 1})); display(Latex('$x$')); display(Javascript('1'))
display(SVG('<svg xmlns="http://www.w3.org/2000/svg"></svg>'))
class Own:
    def _repr_latex_(self): return '\\\\text{own}'
Own()
""")
    t.equal(done.error, None, "error")
    by_format = {name: each for each in done.results for name in each.formats()}
    for name in ("html", "markdown", "json", "latex", "javascript", "svg"):
        t.check(name in by_format, f"a result as {name}, got {sorted(by_format)}")
    t.equal(by_format["html"].html, "<b>bold</b>", "html")


@tried
async def data_frames_and_pictures(t):
    sandbox = await interpreter(t)
    done = await sandbox.run_code("import pandas as pd\npd.DataFrame({'a': [1, 2], 'b': ['x', 'y']})")
    t.equal(done.error, None, "error of pandas")
    t.equal(done.results[0].data, {"a": [1, 2], "b": ["x", "y"]}, "data")
    t.check(done.results[0].html, "html")
    done = await sandbox.run_code("import matplotlib.pyplot as plt\nplt.plot([1, 2], [3, 4], label='line')\nplt.title('Title'); plt.xlabel('X'); plt.ylabel('Y')\nplt.show()")
    t.equal(done.error, None, "error of matplotlib")
    picture = done.results[0]
    t.check(picture.png and len(picture.png) > 100, "a png")
    t.check(picture.chart, "a chart")
    t.equal((picture.chart.type.value, picture.chart.title, picture.chart.x_label, picture.chart.y_label), ("line", "Title", "X", "Y"), "the chart")
    t.equal([list(each) for each in picture.chart.elements[0].points], [[1.0, 3.0], [2.0, 4.0]], "its points")


CHARTS = {
    "bar": "plt.bar(['a', 'b'], [1, 2])",
    "scatter": "plt.scatter([1, 2], [3, 4])",
    "pie": "plt.pie([1, 2], labels=['a', 'b'])",
    "box_and_whisker": "plt.boxplot([[1, 2, 3], [2, 3, 4]], **{'tick_labels' if 'tick_labels' in plt.boxplot.__wrapped__.__code__.co_varnames + plt.boxplot.__code__.co_varnames else 'labels': ['a', 'b']})",
    "superchart": "figure, axes = plt.subplots(1, 2); axes[0].plot([1, 2], [3, 4]); axes[1].bar(['a'], [1])",
}


@tried
async def charts_of_every_kind(t):
    sandbox = await interpreter(t)
    for kind, code in CHARTS.items():
        if kind == "box_and_whisker":
            code = "plt.boxplot([[1, 2, 3], [2, 3, 4]])"
        done = await sandbox.run_code(f"import matplotlib.pyplot as plt\n{code}\nplt.show()")
        t.equal(done.error, None, f"error of {kind}")
        chart = done.results[0].chart
        t.check(chart, f"a chart of {kind}")
        t.equal(chart.type.value, kind, "its type")
        t.check(chart.elements, f"elements of {kind}")


@tried
async def contexts_are_apart(t):
    sandbox = await interpreter(t)
    await sandbox.run_code("secret = 1")
    context = await sandbox.create_code_context(cwd="/tmp", language="python")
    t.equal((context.cwd, context.language), ("/tmp", "python"), "the context")
    t.equal((await sandbox.run_code("secret", context=context)).error.name, "NameError", "a variable of another context")
    t.equal((await sandbox.run_code("import os; os.getcwd()", context=context)).text, "/tmp", "its directory")
    t.check(context.id in [each.id for each in await sandbox.list_code_contexts()], "it is listed")
    await sandbox.run_code("kept = 1", context=context)
    await sandbox.restart_code_context(context)
    t.equal((await sandbox.run_code("kept", context=context)).error.name, "NameError", "after a restart")
    await sandbox.remove_code_context(context)
    t.check(context.id not in [each.id for each in await sandbox.list_code_contexts()], "it is gone")
    other = await sandbox.create_code_context()
    await sandbox.remove_code_context(other.id)
    await t.raises(Exception, sandbox.run_code("1", context=other))


@tried
async def texts_come_without_their_quotes(t):
    sandbox = await interpreter(t)
    t.equal((await sandbox.run_code("'a string'")).text, "a string", "a string")
    t.equal((await sandbox.run_code("['in', 'a list']")).text, "['in', 'a list']", "strings in a list")


@tried
async def contexts_are_there_from_the_beginning(t):
    sandbox = await interpreter(t)
    languages = {each.language for each in await sandbox.list_code_contexts()}
    t.check({"python", "javascript"} <= languages, f"python and javascript among {languages}")
    context = await sandbox.create_code_context()
    t.equal((context.language, context.cwd), ("python", "/home/user"), "a context unless asked")
    t.check(context.id in [each.id for each in await sandbox.list_code_contexts()], "it is listed")


@tried
async def what_dies_is_started_again(t):
    sandbox = await interpreter(t)
    health = "curl -s -o /dev/null -w '%{http_code}' http://localhost:49999/health"
    t.equal((await sandbox.commands.run(health)).stdout, "200", "/health")
    await sandbox.commands.run("pkill -9 -f '[i]pykernel' || pkill -9 -f '[k]ernel/python.py'", user="root")

    async def works():
        try:
            return (await sandbox.run_code("x = 1; x", timeout=5)).text == "1"
        except Exception:
            return False

    await t.eventually(works, "code runs again", 40)


@tried
async def lists_and_dictionaries_are_json(t):
    sandbox = await interpreter(t)
    done = await sandbox.run_code("{'a': [1, 2.5, None], 'b': {'c': True}}")
    t.equal(done.results[0].json, {"a": [1, 2.5, None], "b": {"c": True}}, "json")
    t.equal(sorted(done.results[0].formats()), ["json", "text"], "formats")


@tried
async def contexts_begin_where_they_are_told(t):
    sandbox = await interpreter(t)
    for cwd in ("/root", "/home", "/home/user/made/for/it"):
        context = await sandbox.create_code_context(language="python", cwd=cwd)
        last = (await sandbox.list_code_contexts())[-1]
        t.equal((last.id, last.language, last.cwd), (context.id, "python", cwd), "the last of the list")
        t.equal((await sandbox.run_code("import os; os.getcwd()", context=context)).text, cwd, "where it is")


@tried
async def an_execution_ends_with_its_sandbox(t):
    sandbox = await interpreter(t, timeout=15)
    error = await t.raises("TimeoutException", sandbox.run_code("print('begun', flush=True)\nimport time; time.sleep(100)"))
    t.contains(str(error), "sandbox was killed", "what it says")


@tried
async def code_begins_in_the_home(t):
    sandbox = await interpreter(t)
    t.equal((await sandbox.run_code("import os; os.getcwd(), os.environ['HOME']")).text, "('/home/user', '/home/user')", "where")
    await sandbox.files.write("from_files.py", "VALUE = 5")
    t.equal((await sandbox.run_code("import from_files; from_files.VALUE")).text, "5", "a module beside it")


@tried
async def environment_of_code(t):
    sandbox = await interpreter(t, envs={"OF_SANDBOX": "one"})
    read = "import os; os.environ.get('OF_SANDBOX'), os.environ.get('OF_CALL')"
    t.equal((await sandbox.run_code(read)).text, "('one', None)", "the sandbox's")
    t.equal((await sandbox.run_code(read, envs={"OF_CALL": "two"})).text, "('one', 'two')", "the call's")
    t.equal((await sandbox.run_code(read, envs={"OF_SANDBOX": "changed"})).text, "('changed', None)", "the call's first, and gone afterwards")
    t.equal((await sandbox.run_code(read)).text, "('one', None)", "as before")


@tried
async def other_languages(t):
    sandbox, told = await interpreter(t), []
    for language, code in (("bash", "echo from-language"), ("javascript", "console.log('from-language')"), ("js", "console.log('from-language')"),
                           ("typescript", "const x: number = 1; console.log('from-language')"), ("r", "cat('from-language\\n')")):
        try:
            done = await sandbox.run_code(code, language=language)
            if "from-language" not in "".join(done.logs.stdout):
                told.append(f"{language}: {done.error or done.logs}")
        except Exception as error:
            told.append(f"{language}: {error}")
    t.equal(told, [], "languages that did not answer")


@tried
async def languages_that_few_have(t):
    sandbox, told = await interpreter(t), []
    for language, code in (("java", "System.out.println(\"from-language\");"), ("deno", "console.log('from-language')")):
        try:
            done = await sandbox.run_code(code, language=language)
            if "from-language" not in "".join(done.logs.stdout):
                told.append(language)
        except Exception:
            told.append(language)
    if told:
        t.skip(f"there is no kernel of these that is small: {', '.join(told)}")


@tried
async def a_language_that_is_not_there_is_refused(t):
    sandbox = await interpreter(t)
    for call in (sandbox.run_code("1", language="cobol"), sandbox.create_code_context(language="cobol")):
        error = await t.raises(Exception, call)
        t.contains(str(error), "cobol", "the refusal names it")


@tried
async def languages_take_variables(t):
    sandbox = await interpreter(t, envs={"OUTER": "one"})
    for language, code in (("bash", "echo $OUTER ${INNER:-none}"), ("javascript", "console.log(process.env.OUTER, process.env.INNER || 'none')"),
                           ("typescript", "console.log(process.env.OUTER, process.env.INNER || 'none')"),
                           ("r", "cat(Sys.getenv('OUTER'), Sys.getenv('INNER', 'none'), '\\n')")):
        for envs, told in (({"OUTER": "other", "INNER": "two"}, "other two"), (None, "one none")):
            done = await sandbox.run_code(code, language=language, **({"envs": envs} if envs else {}))
            t.equal("".join(done.logs.stdout).strip(), told, f"{language} with {envs}")


@tried
async def a_time_limit_interrupts(t):
    sandbox = await interpreter(t)
    await t.raises("TimeoutException", sandbox.run_code("import time; time.sleep(100)", timeout=3))
    t.equal((await sandbox.run_code("1 + 1", timeout=20)).text, "2", "what was begun is interrupted, not waited for")


@tried
async def an_interpreter_is_reached_again(t):
    sandbox = await interpreter(t)
    await sandbox.run_code("kept = 'there'")
    again = await t.Sandbox.connect(sandbox.sandbox_id)
    t.equal((await again.run_code("kept")).text, "there", "its state")


@tried
async def a_killed_interpreter_says_so(t):
    sandbox = await interpreter(t)
    await sandbox.run_code("1")
    await sandbox.kill()
    await t.raises(Exception, sandbox.run_code("1"))


@tried
async def executions_can_be_written_as_json(t):
    sandbox = await interpreter(t)
    done = await sandbox.run_code("print('x'); 5")
    told = json.loads(done.to_json())
    t.equal((told["results"][0]["text"] if "text" in told["results"][0] else told["results"][0], told["error"]), ("5", None), "to_json")


@tried
async def a_paused_interpreter_goes_on(t):
    sandbox = await interpreter(t)
    await sandbox.run_code("kept = 7")
    await sandbox.pause()
    again = await t.Sandbox.connect(sandbox.sandbox_id)
    t.equal((await again.run_code("kept")).text, "7", "its state")


@tried
async def much_output_of_code(t):
    sandbox = await interpreter(t)
    done = await sandbox.run_code("for n in range(20000): print(n)", timeout=60)
    t.equal("".join(done.logs.stdout).splitlines()[-1], "19999", "the last line")
