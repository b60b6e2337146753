"""Volumes and secrets."""
from harness import scenario


async def offered(t, first):
    """The result of the first call; skips where the server has no such thing at all."""
    try:
        return await first
    except Exception as error:
        text = str(error)
        if "404" in text or "not found" in text.lower() or "501" in text:
            t.skip(f"the server has none: {text[:120]}")
        raise


@scenario("volumes")
async def volumes_come_and_go(t):
    name = f"vol-{t.mark}"
    volume = await offered(t, t.Volume.create(name))
    t.undo(lambda: t.Volume.destroy(volume.volume_id))
    t.check(volume.volume_id and volume.name == name, f"id and name, got {volume.volume_id} and {volume.name}")
    t.equal((await t.Volume.get_info(volume.volume_id)).name, name, "get_info")
    t.check(name in [each.name for each in await t.Volume.list()], "among all")
    again = await t.Volume.connect(volume.volume_id)
    t.equal((again.volume_id, again.name), (volume.volume_id, name), "connect")
    t.check(volume.token, "a token")
    t.equal(await t.Volume.destroy(volume.volume_id), True, "destroy")
    t.equal(await t.Volume.destroy(volume.volume_id), False, "destroy again")
    await t.raises("NotFoundException", t.Volume.get_info(volume.volume_id))


@scenario("volumes")
async def files_of_a_volume(t):
    volume = await offered(t, t.Volume.create(f"files-{t.mark}"))
    t.undo(lambda: t.Volume.destroy(volume.volume_id))
    written = await volume.write_file("/notes/ü.txt", "content", force=True)
    t.equal((written.name, written.size), ("ü.txt", 7), "what write_file tells")
    t.equal(await volume.read_file("/notes/ü.txt"), "content", "read_file")
    t.equal(await volume.exists("/notes/ü.txt"), True, "exists")
    await volume.make_dir("/deep/er", force=True)
    t.equal({each.name for each in await volume.list("/")}, {"notes", "deep"}, "list")
    changed = await volume.update_metadata("/notes/ü.txt", mode=0o600)
    t.equal(changed.mode & 0o777, 0o600, "update_metadata")
    t.equal((await volume.get_info("/notes/ü.txt")).size, 7, "get_info")
    await volume.remove("/notes/ü.txt")
    t.equal(await volume.exists("/notes/ü.txt"), False, "after remove")


@scenario("volumes")
async def a_volume_in_two_sandboxes_in_turn(t):
    volume = await offered(t, t.Volume.create(f"shared-{t.mark}"))
    t.undo(lambda: t.Volume.destroy(volume.volume_id))
    one = await t.sandbox(volume_mounts={"/data": volume})
    await one.files.write("/data/kept.txt", "kept", user="root")
    await one.kill()
    two = await t.sandbox(volume_mounts={"/data": volume.name})
    t.equal(await two.files.read("/data/kept.txt"), "kept", "the file")


@scenario("secrets")
async def secrets_come_and_go(t):
    name = f"key-{t.mark}"
    made = await offered(t, t.Secret.create(name, "v1", metadata={"env": "test"}))
    t.undo(lambda: t.Secret.destroy(made.secret_id))
    t.equal((made.name, made.version, made.metadata), (name, 1, {"env": "test"}), "what create tells")
    t.equal((await t.Secret.update(made.secret_id, "v2")).version, 2, "update")
    t.equal((await t.Secret.get_info(name)).secret_id, made.secret_id, "get_info by name")
    t.equal((await t.Secret.exists(name), await t.Secret.exists(f"{name}-not")), (True, False), "exists")
    pages, found = await t.Secret.list(limit=1), []
    while pages.has_next:
        found += [each.name for each in await pages.next_items()]
    t.equal(pages.next_token, None, "the token in the end")
    t.check(name in found, "among all")
    t.equal(await t.Secret.destroy(name), True, "destroy")
    t.equal(await t.Secret.destroy(name), False, "destroy again")


@scenario("secrets")
async def placeholders_of_secrets(t):
    t.equal(await t.Secret.fill("openai-api-key"), "${e2b.secrets.openai-api-key}", "fill")
    token = await t.Secret.iam_token(audience="sts.example.com", token_type="JWT-SVID")
    t.check(token, "iam_token")
