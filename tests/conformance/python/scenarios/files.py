"""Files and folders: written, read, listed, moved, removed, and reached by signed URLs."""
import gzip
import hashlib
import io
import os
import random
import urllib.parse
from datetime import datetime, timedelta, timezone

from harness import scenario

HOME = "/home/user"
# Names that have tripped somebody.
NAMES = ("plain.txt", "with space.txt", "ünïcödé.txt", "漢字/深い/ファイル.txt", "🚀.bin", "a+b&c=d%20e?f#g.txt", "quote'and\"more.txt", ".hidden", "-dash", "semi;colon,comma.txt")


@scenario("files")
async def text_is_written_and_read(t):
    sandbox = await t.sandbox()
    info = await sandbox.files.write("a.txt", "some text")
    t.equal((info.path, info.name, info.type.value), (f"{HOME}/a.txt", "a.txt", "file"), "what write tells")
    t.equal(await sandbox.files.exists("a.txt"), True, "exists")
    t.equal(await sandbox.files.read("a.txt"), "some text", "read")
    await sandbox.files.write("a.txt", "less")
    t.equal(await sandbox.files.read("a.txt"), "less", "after writing less over it")


@scenario("files")
async def every_name_works(t):
    sandbox = await t.sandbox()
    for name in NAMES:
        info = await sandbox.files.write(f"names/{name}", f"in {name}")
        t.equal(info.path, f"{HOME}/names/{name}", "the path that is told")
        t.equal(await sandbox.files.read(f"names/{name}"), f"in {name}", name)
        t.equal((await sandbox.files.get_info(f"names/{name}")).name, name.split("/")[-1], "its name")
    found = {each.path for each in await sandbox.files.list("names", depth=5) if each.type.value == "file"}
    t.equal(found, {f"{HOME}/names/{name}" for name in NAMES}, "the list")


@scenario("files")
async def paths_are_understood(t):
    sandbox = await t.sandbox()
    await sandbox.files.write("/tmp/absolute.txt", "absolute")
    t.equal(await sandbox.files.read("/tmp/../tmp/absolute.txt"), "absolute", "a path with dots")
    await sandbox.files.write("~/tilde.txt", "tilde")
    t.equal(await sandbox.files.read("tilde.txt"), "tilde", "~ is the home")
    await sandbox.files.write("mine.txt", "root's", user="root")
    t.equal(await sandbox.files.read("/root/mine.txt", user="root"), "root's", "a relative path of root's")


@scenario("files")
async def bytes_in_every_form(t):
    sandbox = await t.sandbox()
    data = bytes(range(256)) * 20
    for name, given in (("bytes", data), ("stream", io.BytesIO(data))):
        await sandbox.files.write(name, given)
        t.equal(bytes(await sandbox.files.read(name, format="bytes")), data, f"as {name}")
    got = b""
    async for piece in t.each(await sandbox.files.read("bytes", format="stream")):
        got += piece
    t.equal(got, data, "read as a stream")


@scenario("files")
async def empty_files_are_files(t):
    sandbox = await t.sandbox()
    await sandbox.files.write("empty.txt", "")
    t.equal(await sandbox.files.read("empty.txt"), "", "read")
    t.equal(bytes(await sandbox.files.read("empty.txt", format="bytes")), b"", "read as bytes")
    t.equal((await sandbox.files.get_info("empty.txt")).size, 0, "its size")


@scenario("files")
async def compressed_on_the_way(t):
    sandbox = await t.sandbox()
    text = "compress me " * 10000
    await sandbox.files.write("packed.txt", text, gzip=True)
    t.equal((await sandbox.files.get_info("packed.txt")).size, len(text), "its size inside")
    t.equal(await sandbox.files.read("packed.txt", gzip=True), text, "read compressed")
    t.equal(await sandbox.files.read("packed.txt"), text, "read plain")
    await sandbox.files.write("both.txt", text, gzip=True, use_octet_stream=True)
    t.equal(await sandbox.files.read("both.txt"), text, "written compressed in one piece")
    already = gzip.compress(b"kept as it is")
    await sandbox.files.write("file.gz", already)
    t.equal(bytes(await sandbox.files.read("file.gz", format="bytes", gzip=True)), already, "a file that is compressed itself")


@scenario("files")
async def both_ways_of_uploading(t):
    sandbox = await t.sandbox()
    for way in (True, False):
        info = await sandbox.files.write(f"way-{way}/ü.txt", "content", use_octet_stream=way)
        t.equal(info.path, f"{HOME}/way-{way}/ü.txt", "the path")
        t.equal(await sandbox.files.read(info.path), "content", f"octet stream: {way}")


@scenario("files")
async def an_iterator_is_uploaded(t):
    sandbox = await t.sandbox()
    pieces = [bytes([n % 256]) * 70000 for n in range(20)]
    try:
        await sandbox.files.write("streamed.bin", t.pieces(pieces))
    except (TypeError, AttributeError, t.exception("InvalidArgumentException")) as error:
        t.skip(f"this client takes no iterator: {error}")
    got = bytes(await sandbox.files.read("streamed.bin", format="bytes"))
    t.equal(hashlib.sha256(got).hexdigest(), hashlib.sha256(b"".join(pieces)).hexdigest(), "its sum")


@scenario("files", patience=240)
async def large_files_pass(t):
    sandbox = await t.sandbox(timeout=280)
    data = random.Random(4).randbytes(48 << 20)
    await sandbox.files.write("large.bin", data, request_timeout=120)
    told = (await sandbox.commands.run("sha256sum large.bin")).stdout.split()[0]
    t.equal(told, hashlib.sha256(data).hexdigest(), "the sum inside")
    digest = hashlib.sha256()
    async for piece in t.each(await sandbox.files.read("large.bin", format="stream", request_timeout=120)):
        digest.update(piece)
    t.equal(digest.hexdigest(), told, "the sum of what came back")


@scenario("files")
async def several_files_at_once(t):
    sandbox = await t.sandbox()
    t.equal(await sandbox.files.write_files([]), [], "none")
    entries = [{"path": f"many/file {n}.txt", "data": f"content {n}"} for n in range(12)]
    infos = await sandbox.files.write_files(entries)
    t.equal([each.path for each in infos], [f"{HOME}/{each['path']}" for each in entries], "their paths, in order")
    for entry in entries:
        t.equal(await sandbox.files.read(entry["path"]), entry["data"], entry["path"])
    mixed = await sandbox.files.write_files([{"path": "one.bin", "data": b"\x00\xff"}, {"path": "/tmp/two.txt", "data": io.BytesIO(b"two")}])
    t.equal([each.path for each in mixed], [f"{HOME}/one.bin", "/tmp/two.txt"], "of different kinds")


@scenario("files")
async def written_files_belong_to_the_user(t):
    sandbox = await t.sandbox()
    await sandbox.files.write("made/for/it/file.txt", "x")
    done = await sandbox.commands.run("stat -c '%U:%G:%a' made made/for made/for/it made/for/it/file.txt")
    t.equal(done.stdout.splitlines(), ["user:user:755"] * 3 + ["user:user:644"], "owners and modes")
    await sandbox.files.write("of-root.txt", "x", user="root")
    t.equal((await sandbox.files.get_info("/root/of-root.txt", user="root")).owner, "root", "root's file")
    await t.raises("AuthenticationException", sandbox.files.write("x.txt", "x", user="nobody-there"))


@scenario("files")
async def overwriting_keeps_the_mode(t):
    sandbox = await t.sandbox()
    await sandbox.commands.run("echo old > tool.sh; chmod 755 tool.sh")
    await sandbox.files.write("tool.sh", "new")
    t.equal((await sandbox.files.get_info("tool.sh")).mode, 0o755, "its mode")


@scenario("files")
async def metadata_stays_with_a_file(t):
    sandbox = await t.sandbox()
    notes = {"author": "ada", "purpose": "upload"}
    for way in (False, True):
        info = await sandbox.files.write(f"noted-{way}.txt", "x", metadata=notes, use_octet_stream=way)
        t.equal(info.metadata, notes, "what write tells")
        t.equal((await sandbox.files.get_info(info.path)).metadata, notes, "what get_info tells")
    t.equal({each.name: each.metadata for each in await sandbox.files.list(".") if each.name.startswith("noted")},
            {"noted-False.txt": notes, "noted-True.txt": notes}, "what list tells")
    t.equal((await sandbox.files.rename("noted-True.txt", "moved.txt")).metadata, notes, "after a rename")
    infos = await sandbox.files.write_files([{"path": "m1", "data": "1"}, {"path": "m2", "data": "2"}], metadata=notes)
    t.equal([each.metadata for each in infos], [notes, notes], "on several files")
    t.equal((await sandbox.files.write("moved.txt", "again")).metadata, None, "gone when written without")
    t.equal((await sandbox.files.get_info("moved.txt")).metadata, None, "gone for get_info, too")
    t.equal((await sandbox.files.write("bare.txt", "x")).metadata, None, "none unless given")


@scenario("files")
async def bad_metadata_is_refused(t):
    sandbox = await t.sandbox()
    for notes in ({"": "x"}, {"bad key": "x"}, {"k": "line\nbreak"}):
        await t.raises(Exception, sandbox.files.write("x.txt", "x", metadata=notes))


@scenario("files")
async def what_is_not_there_is_told(t):
    sandbox = await t.sandbox()
    for ask in (sandbox.files.read("nope.txt"), sandbox.files.get_info("nope.txt"), sandbox.files.list("nope"),
                sandbox.files.rename("nope.txt", "b.txt")):
        await t.raises("FileNotFoundException", ask)
    t.equal(await sandbox.files.exists("nope.txt"), False, "exists")


@scenario("files")
async def what_cannot_be_is_told(t):
    sandbox = await t.sandbox()
    await sandbox.files.write("file.txt", "x")
    await sandbox.files.make_dir("folder")
    await t.raises("InvalidArgumentException", sandbox.files.read("folder"))
    await t.raises("SandboxException", sandbox.files.write("folder", "over a folder"))
    await t.raises("SandboxException", sandbox.files.write("file.txt/below", "below a file"))
    await t.raises("SandboxException", sandbox.files.list("file.txt"))
    await t.raises("InvalidArgumentException", sandbox.files.list(".", depth=0), "depth")


@scenario("files")
async def info_of_a_file(t):
    sandbox = await t.sandbox()
    await sandbox.files.write("file.txt", "Hello, World!")
    info = await sandbox.files.get_info("file.txt")
    t.equal((info.name, info.path, info.type.value, info.size), ("file.txt", f"{HOME}/file.txt", "file", 13), "what it is")
    t.equal((info.mode, info.permissions, info.owner, info.group), (0o644, "-rw-r--r--", "user", "user"), "whose it is")
    t.equal(info.symlink_target, None, "symlink_target")
    t.check(isinstance(info.modified_time, datetime), f"a time, got {info.modified_time!r}")
    then = info.modified_time if info.modified_time.tzinfo else info.modified_time.replace(tzinfo=timezone.utc)
    t.check(abs(datetime.now(timezone.utc) - then) < timedelta(minutes=2), f"written just now, got {then}")


@scenario("files")
async def info_of_a_folder(t):
    sandbox = await t.sandbox()
    await sandbox.files.make_dir("folder")
    info = await sandbox.files.get_info("folder")
    t.equal((info.name, info.path, info.type.value), ("folder", f"{HOME}/folder", "dir"), "what it is")
    t.equal((info.mode, info.permissions, info.owner, info.group), (0o755, "drwxr-xr-x", "user", "user"), "whose it is")
    root = await sandbox.files.get_info("/")
    t.equal((root.path, root.type.value), ("/", "dir"), "the root")


@scenario("files")
async def info_of_a_link(t):
    sandbox = await t.sandbox()
    await sandbox.commands.run("mkdir d; echo Hello > d/file.txt; ln -s file.txt d/link; ln -s /etc d/to-dir; ln -s nowhere d/broken")
    link, to_dir = await sandbox.files.get_info("d/link"), await sandbox.files.get_info("d/to-dir")
    # Older clients tell what the link leads to, newer ones that it is a link.
    t.check((link.type.value, to_dir.type.value) in (("file", "dir"), ("symlink", "symlink")), f"their types, got {link.type} and {to_dir.type}")
    t.equal((link.symlink_target, link.name, to_dir.symlink_target), (f"{HOME}/d/file.txt", "link", "/etc"), "where they lead")
    t.equal((await sandbox.files.get_info("d/broken")).type.value, "symlink", "a broken one")
    names = {each.name for each in await sandbox.files.list("d")}
    t.equal(names, {"file.txt", "link", "to-dir", "broken"}, "the list, with a broken link")
    t.equal(await sandbox.files.read("d/link"), "Hello\n", "read through a link")


@scenario("files")
async def folders_are_listed_in_order_and_depth(t):
    sandbox = await t.sandbox()
    for folder in ("p/s1/s1a", "p/s1/s1b", "p/s2/s2a"):
        await sandbox.files.make_dir(folder)
    await sandbox.files.write("p/file.txt", "x")
    names = lambda found: [each.path.removeprefix(f"{HOME}/p/") for each in found]
    t.equal(names(await sandbox.files.list("p")), ["file.txt", "s1", "s2"], "depth 1")
    t.equal(names(await sandbox.files.list("p", depth=1)), ["file.txt", "s1", "s2"], "depth 1, said")
    deep = ["file.txt", "s1", "s1/s1a", "s1/s1b", "s2", "s2/s2a"]
    t.equal(names(await sandbox.files.list("p", depth=2)), deep, "depth 2")
    t.equal(names(await sandbox.files.list("p", depth=9)), deep, "depth 9")
    await sandbox.files.make_dir("void")
    t.equal(await sandbox.files.list("void"), [], "an empty folder")
    t.check(any(each.name == "etc" for each in await sandbox.files.list("/")), "the root")


@scenario("files")
async def entries_of_a_list_are_complete(t):
    sandbox = await t.sandbox()
    await sandbox.files.make_dir("e/sub")
    await sandbox.files.write("e/file.txt", "12345")
    by_name = {each.name: each for each in await sandbox.files.list("e")}
    file, folder = by_name["file.txt"], by_name["sub"]
    t.equal((file.type.value, file.size, file.mode, file.permissions, file.owner, file.group), ("file", 5, 0o644, "-rw-r--r--", "user", "user"), "the file")
    t.equal((folder.type.value, folder.mode, folder.permissions, folder.owner, folder.group), ("dir", 0o755, "drwxr-xr-x", "user", "user"), "the folder")
    t.check(file.modified_time and folder.modified_time, "their times")


@scenario("files")
async def folders_are_made_once(t):
    sandbox = await t.sandbox()
    t.equal(await sandbox.files.make_dir("x/y/z"), True, "the first time")
    t.equal(await sandbox.files.exists("x/y"), True, "its parents")
    t.equal(await sandbox.files.make_dir("x/y/z"), False, "the second time")
    await sandbox.files.write("f", "x")
    await t.raises("SandboxException", sandbox.files.make_dir("f"))


@scenario("files")
async def renaming_moves(t):
    sandbox = await t.sandbox()
    await sandbox.files.write("old.txt", "content")
    info = await sandbox.files.rename("old.txt", "new.txt")
    t.equal((info.name, info.path, info.type.value), ("new.txt", f"{HOME}/new.txt", "file"), "what rename tells")
    t.equal((await sandbox.files.exists("old.txt"), await sandbox.files.read("new.txt")), (False, "content"), "afterwards")
    await sandbox.files.make_dir("from/deep")
    await sandbox.files.rename("from", "to")
    t.equal(await sandbox.files.exists("to/deep"), True, "a folder")
    await sandbox.files.write("other.txt", "to be replaced")
    await sandbox.files.rename("new.txt", "other.txt")
    t.equal(await sandbox.files.read("other.txt"), "content", "over another file")


@scenario("files")
async def removing_is_for_good(t):
    sandbox = await t.sandbox()
    await sandbox.files.write("d/e/f.txt", "x")
    await sandbox.files.remove("d/e/f.txt")
    t.equal(await sandbox.files.exists("d/e/f.txt"), False, "the file")
    await sandbox.files.write("d/e/g.txt", "x")
    await sandbox.files.remove("d")
    t.equal(await sandbox.files.exists("d"), False, "a folder with things in it")
    await sandbox.files.remove("never-there")


@scenario("files")
async def special_files_can_be_read(t):
    sandbox = await t.sandbox()
    t.contains(await sandbox.files.read("/proc/self/status"), "Pid:", "/proc")
    t.contains(await sandbox.files.read("/etc/passwd"), "/home/user", "/etc/passwd")


@scenario("files", patience=120)
async def a_full_disk_is_told(t):
    t.skip("would fill the disk of a sandbox of the default template, which takes minutes on slow disks")


@scenario("files")
async def many_files_at_once(t):
    sandbox = await t.sandbox()

    def work(number):
        async def both():
            await sandbox.files.write(f"par/{number}.txt", str(number) * 1000)
            return await sandbox.files.read(f"par/{number}.txt")

        return both

    beside = [t.beside(work(number)) for number in range(20)]
    t.equal([await each.join() for each in beside], [str(number) * 1000 for number in range(20)], "what was read")


def ask(t, sandbox, url, method="GET", content=None, headers=None):
    """What a signed URL gives to somebody who has nothing else. A server that routes by headers alone is told whom it is for."""
    import httpx

    headers = dict(headers or {})
    if os.environ.get("E2B_SANDBOX_URL"):
        headers |= {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "49983"}
    return httpx.request(method, url, headers=headers, timeout=20, **({"files": content} if content else {}))


@scenario("files")
async def signed_urls_download(t):
    sandbox = await t.sandbox(secure=True)
    await sandbox.files.write("ünsigned file.txt", "signed content")
    for url in (await sandbox.download_url("ünsigned file.txt"), await sandbox.download_url("ünsigned file.txt", user="user"),
                await sandbox.download_url("ünsigned file.txt", use_signature_expiration=120)):
        t.check("signature=" in url, f"a signature in {url}")
        answer = ask(t, sandbox, url)
        t.equal((answer.status_code, answer.text), (200, "signed content"), "the answer")


@scenario("files")
async def signed_urls_upload(t):
    sandbox = await t.sandbox(secure=True)
    for url in (await sandbox.upload_url("up/loaded.txt"), await sandbox.upload_url("up/loaded.txt", use_signature_expiration=120)):
        answer = ask(t, sandbox, url, "POST", content={"file": ("loaded.txt", b"from outside")})
        t.equal(answer.status_code, 200, "the answer")
        t.equal(answer.json()[0]["path"], f"{HOME}/up/loaded.txt", "the path that is told")
        t.equal(await sandbox.files.read("up/loaded.txt"), "from outside", "the file")


@scenario("files")
async def forged_and_old_signatures_are_refused(t):
    sandbox = await t.sandbox(secure=True)
    await sandbox.files.write("secret.txt", "secret")
    url = await sandbox.download_url("secret.txt", use_signature_expiration=-120)
    answer = ask(t, sandbox, url)
    t.equal((answer.status_code, answer.json()), (401, {"code": 401, "message": "signature is already expired"}), "an expired one")
    good = await sandbox.download_url("secret.txt", user="user")
    parts = urllib.parse.urlsplit(good)
    fields = dict(urllib.parse.parse_qsl(parts.query))
    for change in ({"path": "other.txt"}, {"username": "root"}, {"signature": "v1_" + "A" * 43}, {"signature": ""}, {"signature_expiration": "99999999999"}):
        forged = urllib.parse.urlunsplit(parts._replace(query=urllib.parse.urlencode(fields | change)))
        t.equal(ask(t, sandbox, forged).status_code, 401, f"with {change}")
    bare = urllib.parse.urlunsplit(parts._replace(query=urllib.parse.urlencode({"path": "secret.txt"})))
    t.equal(ask(t, sandbox, bare).status_code, 401, "without a signature")
    uploading = good.replace("/files?", "/files?")
    t.equal(ask(t, sandbox, uploading, "POST", content={"file": ("x", b"x")}).status_code, 401, "one for reading, used for writing")


@scenario("files")
async def the_agent_wants_its_token(t):
    sandbox = await t.sandbox(secure=True)
    status, _, _ = t.port_request(sandbox, 49983, "/health")
    t.equal(status, 204, "/health without a token")
    for path in ("/files?path=/etc/passwd", "/metrics", "/envs"):
        t.equal(t.port_request(sandbox, 49983, path)[0], 401, f"{path} without a token")
    for path in ("/init", "/freeze", "/thaw"):
        t.equal(t.port_request(sandbox, 49983, path, method="POST", body=b"{}")[0], 404, f"{path} from outside")
    call = {"Content-Type": "application/json", "X-Access-Token": "wrong"}
    t.equal(t.port_request(sandbox, 49983, "/process.Process/List", "POST", call, b"{}")[0], 401, "a wrong token")
