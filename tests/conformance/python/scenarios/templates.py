"""Templates: described, built, named, tagged."""
import json
import os
import tempfile

from harness import scenario

LONG = 240


def ready(milliseconds=1000):
    from e2b import wait_for_timeout

    return wait_for_timeout(milliseconds)


async def built(t, template, name=None, logs=None, **options):
    """Builds it under a name of its own."""
    name = name or f"conf-{t.mark}"
    if logs is not None:
        options["on_build_logs"] = logs.append
    info = await t.Template.build(template, name, cpu_count=1, memory_mb=512, **options)
    t.check(info.template_id and info.build_id, "ids of template and build")
    return info


@scenario("templates")
async def every_step_can_be_described(t):
    folder = tempfile.mkdtemp()
    for name in ("a.txt", "b.txt"):
        with open(os.path.join(folder, name), "w") as file:
            file.write(name)
    template = (
        t.Template(file_context_path=folder).from_base_image()
        .copy("a.txt", "/app/a.txt", user="user", mode=0o600)
        .copy_items([{"src": "b.txt", "dest": "/app/"}])
        .run_cmd("echo one").run_cmd(["echo two", "echo three"], user="root")
        .set_workdir("/app").set_user("user").set_envs({"A": "1"})
        .make_dir("/app/d", mode=0o755).make_symlink("/app/a.txt", "/app/link").rename("/app/a.txt", "/app/c.txt").remove("/app/c.txt", force=True)
        .apt_install(["curl"], no_install_recommends=True).pip_install("six").npm_install("left-pad").bun_install("x").git_clone("https://example.com/x.git", "/x", depth=1)
        .skip_cache().set_start_cmd("sleep 1000", ready()))
    told = json.loads(await t.Template.to_json(template))
    t.check(len(told["steps"]) >= 15, f"its steps, got {len(told['steps'])}")
    t.equal(told["startCmd"], "sleep 1000", "startCmd")
    t.check({"COPY", "RUN", "WORKDIR", "USER", "ENV"} <= {each["type"] for each in told["steps"]}, "all kinds of steps")
    plain = t.Template().from_image("debian:12").run_cmd("true").set_ready_cmd("true")
    t.contains(await t.Template.to_dockerfile(plain), "FROM debian:12", "to_dockerfile")


@scenario("templates")
async def every_base_can_be_described(t):
    def image(describe):
        return json.loads(t.real(t.Template).to_json(t.real(describe(t.Template()))))

    for name in ("debian", "ubuntu", "fedora", "alpine", "arch", "python", "node", "bun"):
        if hasattr(t.real(t.Template), f"from_{name}_image"):
            told = image(lambda template: getattr(template, f"from_{name}_image")())
            t.check(told["fromImage"], f"an image for {name}")
    t.equal(image(lambda template: template.from_image("x/y:1", username="u", password="p"))["fromImageRegistry"]["username"], "u", "from_image with credentials")
    t.equal(image(lambda template: template.from_template("base"))["fromTemplate"], "base", "from_template")
    t.equal(image(lambda template: template.from_dockerfile("FROM debian:12\nRUN echo hi\n"))["fromImage"], "debian:12", "from_dockerfile")
    t.equal(image(lambda template: template.from_aws_registry("x", "k", "s", "r"))["fromImageRegistry"]["type"], "aws", "from_aws_registry")
    t.equal(image(lambda template: template.from_gcp_registry("x", {"a": "b"}))["fromImageRegistry"]["type"], "gcp", "from_gcp_registry")
    mcp = t.Template().from_template("mcp-gateway").add_mcp_server("exa")
    t.contains(t.real(t.Template).to_json(t.real(mcp)), "exa", "add_mcp_server")
    prebuilt = t.Template().from_template("devcontainer").beta_dev_container_prebuild("/code").beta_set_dev_container_start("/code")
    t.contains(t.real(t.Template).to_json(t.real(prebuilt)), "devcontainer", "a devcontainer")
    t.check(image(lambda template: template.skip_cache().from_base_image())["force"], "skip_cache before the base")


@scenario("templates", patience=LONG)
async def steps_are_run_and_kept(t):
    folder, logs = tempfile.mkdtemp(), []
    os.makedirs(os.path.join(folder, "folder"))
    for name in ("test.txt", "ü ü.txt"):
        with open(os.path.join(folder, "folder", name), "w") as file:
            file.write("This is a test file.")
    os.symlink("test.txt", os.path.join(folder, "folder", "link.txt"))
    os.symlink("nowhere", os.path.join(folder, "folder", "broken.txt"))
    template = (
        t.Template(file_context_path=folder).from_base_image()
        .copy("folder/*", "folder", force_upload=True)
        .copy("folder/link.txt", "/opt/resolved.txt", resolve_symlinks=True, user="root", mode=0o640)
        .run_cmd("cat folder/test.txt")
        .run_cmd("id -un > /tmp/who; pwd > /tmp/where")
        .run_cmd("id -un > /tmp/who-root", user="root")
        .set_envs({"BUILT": "with ü"})
        .run_cmd("echo $BUILT > /tmp/env")
        .set_workdir("/app")
        .run_cmd("pwd > /tmp/where-app")
        .make_dir("/app/made").make_symlink("/app/made", "/app/link")
        .run_cmd("touch x.txt").rename("/app/x.txt", "/app/y.txt")
        .run_cmd("touch z.txt").remove("/app/z.txt"))
    info = await built(t, template, logs=logs)
    t.check(any("test file" in each.message for each in logs), "a step's output in the log")
    sandbox = await t.sandbox(info.name)
    done = await sandbox.commands.run("cd /tmp; cat who where who-root env where-app; ls /app; readlink /app/link; echo \"<$BUILT>\"")
    t.equal(done.stdout.splitlines(), ["user", "/home/user", "root", "with ü", "/app", "link", "made", "y.txt", "/app/made", "<with ü>"], "what the steps left")
    t.equal(await sandbox.files.read("folder/test.txt"), "This is a test file.", "a copied file")
    t.equal((await sandbox.commands.run("cd; cat 'folder/ü ü.txt'; readlink folder/link.txt folder/broken.txt; stat -c %U:%a:%F /opt/resolved.txt")).stdout,
            "This is a test file.test.txt\nnowhere\nroot:640:regular file\n", "links and modes")
    t.equal((await sandbox.commands.run("pwd")).stdout, "/app\n", "commands begin in the directory of the template")
    by_id = await t.sandbox(info.template_id)
    t.equal(await by_id.files.exists("/app/y.txt"), True, "a sandbox made by the template's id")


@scenario("templates", patience=LONG)
async def a_start_command_runs_before_the_sandbox_is_there(t):
    from e2b import wait_for_port

    template = t.Template().from_base_image().set_start_cmd("python3 -m http.server 8123 --directory /etc", wait_for_port(8123))
    info = await built(t, template)
    sandbox = await t.sandbox(info.name)
    t.contains((await sandbox.commands.run("curl -s localhost:8123/passwd")).stdout, "root:", "the server answers at once")


@scenario("templates", patience=LONG)
async def other_ways_to_be_ready(t):
    import e2b

    for way in (e2b.wait_for_file("/tmp/there"), e2b.wait_for_process("sleep"), e2b.wait_for_timeout(1000), "test -e /tmp/there"):
        info = await built(t, t.Template().from_base_image().set_start_cmd("sleep 1; touch /tmp/there; sleep 100000", way))
        sandbox = await t.sandbox(info.name)
        t.equal(await sandbox.is_running(), True, "is_running")
    t.contains(e2b.wait_for_url("http://localhost:1/x").get_cmd(), "http://localhost:1/x", "wait_for_url")


@scenario("templates", patience=LONG)
async def a_failing_step_is_told(t):
    import e2b

    logs, name = [], f"fails-{t.mark}"
    template = t.Template().from_base_image().run_cmd("echo before").run_cmd("echo to the log; exit 42").run_cmd("echo never")
    error = await t.raises(e2b.BuildException, t.Template.build(template, name, on_build_logs=logs.append))
    t.contains(str(error), "42", "its message")
    text = "\n".join(each.message for each in logs)
    t.contains(text, "to the log", "the log")
    t.check("never" not in text.replace("echo never", ""), "no step after it was run")
    t.equal(await t.Template.exists(name), await t.Template.exists(name), "exists answers")
    await t.raises("SandboxException", t.Sandbox.create(name))


@scenario("templates", patience=LONG)
async def the_stack_points_to_the_failing_step(t):
    import traceback

    import e2b

    # Not through stand-ins: the client looks at who calls it.
    begin = lambda: t.real(t.Template)().from_base_image().skip_cache()
    failing = {
        "run_cmd": begin().run_cmd("true").run_cmd("exit 9"),
        "make_dir": begin().set_user("root").make_dir("/etc/passwd"),
        "make_symlink": begin().make_symlink(".bashrc", ".bashrc"),
        "rename": begin().rename("/not/there", "/tmp/x"),
        "remove": begin().remove("/not/there"),
        "set_workdir": begin().set_user("root").set_workdir("/etc/passwd"),
        "set_user": begin().set_user("; exit 1"),
        "set_start_cmd": begin().set_start_cmd("./not/there", ready(10_000)),
        "from_template": t.real(t.Template)().from_template(f"no-such-{t.mark}"),
    }

    def attempt(name, template):
        async def fail():
            try:
                await t.Template.build(template, f"stack-{name.replace('_', '-')}-{t.mark}")
            except e2b.BuildException as error:
                lines = [frame.line for frame in traceback.extract_tb(error.__traceback__) if frame.filename == __file__]
                return None if any(f"{name}(" in line for line in lines) else f"{name}: {lines[-1:]}: {error}"
            return f"{name}: no failure"

        return fail

    told = [await beside.join() for beside in [t.beside(attempt(*each)) for each in failing.items()]]
    t.equal([each for each in told if each], [], "stacks that lead elsewhere")


@scenario("templates", patience=LONG)
async def layers_are_found_again(t):
    first, second = [], []
    make = lambda: t.Template().from_base_image().run_cmd(f"date +%N > /tmp/when; echo {t.mark}").run_cmd("true")
    one = await built(t, make(), f"one-{t.mark}", first)
    two = await built(t, make(), f"two-{t.mark}", second)
    read = lambda made: made.files.read("/tmp/when")
    before, after = await read(await t.sandbox(one.name)), await read(await t.sandbox(two.name))
    t.equal(after, before, "what a cached step left")
    three = await built(t, make(), f"three-{t.mark}", skip_cache=True)
    t.check(await read(await t.sandbox(three.name)) != before, "skip_cache runs the step again")


@scenario("templates", patience=LONG)
async def a_template_can_be_the_base_of_another(t):
    one = await built(t, t.Template().from_base_image().run_cmd("echo one > /tmp/one").set_envs({"FIRST": "1"}), f"parent-{t.mark}")
    two = await built(t, t.Template().from_template(one.name).run_cmd("echo two > /tmp/two"), f"child-{t.mark}")
    sandbox = await t.sandbox(two.name)
    t.equal((await sandbox.commands.run("cat /tmp/one /tmp/two; echo $FIRST")).stdout, "one\ntwo\n1\n", "what both left")


@scenario("templates", patience=LONG)
async def a_dockerfile_is_understood(t):
    info = await built(t, t.Template().from_dockerfile("FROM e2bdev/base\nENV K=v\nWORKDIR /srv\nRUN echo $K > k.txt\nUSER user\n"))
    t.equal(await (await t.sandbox(info.name)).files.read("/srv/k.txt"), "v\n", "the file")


@scenario("templates", patience=LONG)
async def names_tell_whether_they_are_taken(t):
    name = f"exists-{t.mark}"
    t.equal((await t.Template.exists(name), await t.Template.alias_exists(name)), (False, False), "before")
    await built(t, t.Template().from_base_image(), name)
    t.equal((await t.Template.exists(name), await t.Template.alias_exists(name)), (True, True), "afterwards")


@scenario("templates", patience=LONG)
async def tags_are_given_and_taken(t):
    name = f"tags-{t.mark}"
    await built(t, t.Template().from_base_image().run_cmd("echo 1 > /tmp/v"), f"{name}:v1")
    info = await t.Template.assign_tags(f"{name}:v1", ["production", "stable"])
    t.check(info.build_id and {"production", "stable"} <= {each.split(":")[-1] for each in info.tags}, f"the tags, got {info}")
    one = await t.Template.assign_tags(f"{name}:v1", "single")
    t.check("single" in {each.split(":")[-1] for each in one.tags}, "one tag")
    tags = {each.tag: each for each in await t.Template.get_tags(name)}
    t.check({"v1", "production", "stable", "single"} <= set(tags), f"all tags, got {sorted(tags)}")
    t.check(all(each.build_id == info.build_id and each.created_at for each in tags.values()), "what is told of them")
    t.equal(await (await t.sandbox(f"{name}:production")).files.read("/tmp/v"), "1\n", "a sandbox made by a tag")
    await built(t, t.Template().from_base_image().run_cmd("echo 2 > /tmp/v"), f"{name}:v2", tags=["latest"])
    t.equal(await (await t.sandbox(f"{name}:v2")).files.read("/tmp/v"), "2\n", "a second build")
    t.equal(await (await t.sandbox(f"{name}:v1")).files.read("/tmp/v"), "1\n", "the first is still there")
    await t.Template.remove_tags(name, ["production", "single"])
    left = {each.tag for each in await t.Template.get_tags(name)}
    t.check("production" not in left and "stable" in left, f"after removing, got {sorted(left)}")
    await t.raises(Exception, t.Template.remove_tags(name, ["production"]))
    await t.raises(Exception, t.Template.assign_tags(f"{name}:no-such-tag", ["x"]))
    await t.raises(Exception, t.Template.get_tags(f"no-such-template-{t.mark}"))


@scenario("templates", patience=LONG)
async def a_build_goes_on_in_the_background(t):
    import asyncio

    template = t.Template().from_base_image().skip_cache().run_cmd("sleep 3; echo finished")
    info = await t.Template.build_in_background(template, f"back-{t.mark}")
    status = await t.Template.get_build_status(info)
    t.check(status.status.value in ("building", "waiting"), f"it goes on, got {status.status}")
    t.equal((status.build_id, status.template_id), (info.build_id, info.template_id), "which build")
    seen, offset = [], 0
    while status.status.value in ("building", "waiting"):
        await asyncio.sleep(0.2)
        status = await t.Template.get_build_status(info, logs_offset=offset)
        seen += status.log_entries
        offset += len(status.log_entries)
    t.equal(status.status.value, "ready", "its end")
    t.check(any("finished" in each.message for each in seen), "the log, in pieces")
    t.check(all(each.level in ("debug", "info", "warn", "error") and each.timestamp for each in seen), "levels and times")


@scenario("templates", patience=LONG)
async def files_are_sent_once(t):
    folder, first, second = tempfile.mkdtemp(), [], []
    with open(os.path.join(folder, "data.txt"), "w") as file:
        file.write(f"data of {t.mark}")
    make = lambda: t.Template(file_context_path=folder).from_base_image().copy("data.txt", "/data.txt")
    await built(t, make(), f"sent-{t.mark}", first)
    info = await built(t, make(), f"again-{t.mark}", second)
    t.check(any("Uploaded" in each.message for each in first), "the first build sends it")
    t.check(any("already cached" in each.message for each in second), "the second does not")
    t.equal(await (await t.sandbox(info.name)).files.read("/data.txt"), f"data of {t.mark}", "the file")


@scenario("templates", patience=LONG)
async def an_unknown_user_of_a_step_is_told(t):
    import e2b

    template = t.Template().from_base_image().skip_cache().run_cmd("whoami", user="root123")
    error = await t.raises(e2b.BuildException, t.Template.build(template, f"nobody-{t.mark}"))
    t.contains(str(error), "failed to run command 'whoami': command failed: unauthenticated: invalid username: 'root123'", "the reason")


@scenario("templates", patience=LONG)
async def an_unknown_base_is_told(t):
    import e2b

    await t.raises((e2b.BuildException, "SandboxException"), t.Template.build(t.Template().from_template(f"no-such-{t.mark}"), f"x-{t.mark}"))


@scenario("templates", patience=LONG)
async def an_image_of_a_registry_is_a_base(t):
    image = os.environ.get("CONFORMANCE_IMAGE") or t.skip("the target names no image of a registry (CONFORMANCE_IMAGE)")
    info = await built(t, t.Template().from_image(image).run_cmd("echo built > /built.txt", user="root"))
    t.equal(await (await t.sandbox(info.name)).files.read("/built.txt", user="root"), "built\n", "the file")


@scenario("templates", patience=LONG)
async def resources_are_those_of_the_template(t):
    name = f"size-{t.mark}"
    await t.Template.build(t.Template().from_base_image(), name, cpu_count=2, memory_mb=768)
    info = await (await t.sandbox(name)).get_info()
    t.equal((info.cpu_count, info.memory_mb), (2, 768), "cpu and memory")
    t.equal(info.name, name, "the name that the sandbox tells")
