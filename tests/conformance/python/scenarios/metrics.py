"""What sandboxes use."""
from datetime import datetime, timedelta, timezone

from harness import scenario


@scenario("metrics")
async def use_is_measured(t):
    sandbox = await t.sandbox()
    await sandbox.commands.run("seq 1 1000000 | tail -1")
    points = await t.eventually(lambda: sandbox.get_metrics(), "a point", 30)
    last = points[-1]
    t.check(last.cpu_count >= 1, f"cpu_count, got {last.cpu_count}")
    t.check(0 <= last.cpu_used_pct <= 100 * last.cpu_count + 100, f"cpu_used_pct, got {last.cpu_used_pct}")
    t.check(0 < last.mem_used <= last.mem_total, f"memory in bytes, got {last.mem_used} of {last.mem_total}")
    t.check(last.mem_total > 1 << 20, f"mem_total in bytes, got {last.mem_total}")
    t.check(0 <= last.disk_used <= last.disk_total and last.disk_total > 1 << 20, f"disk in bytes, got {last.disk_used} of {last.disk_total}")
    t.check(isinstance(last.timestamp, datetime), f"a timestamp, got {last.timestamp!r}")
    t.check(len(await t.Sandbox.get_metrics(sandbox.sandbox_id)) >= 1, "by id")


@scenario("metrics")
async def a_span_can_be_asked_for(t):
    sandbox, now = await t.sandbox(), datetime.now(timezone.utc)
    await t.eventually(lambda: sandbox.get_metrics(), "a point", 30)
    inside = await sandbox.get_metrics(start=now - timedelta(minutes=5), end=now + timedelta(minutes=5))
    t.check(len(inside) >= 1, "points inside of the span")
    t.equal(await sandbox.get_metrics(start=now - timedelta(days=2), end=now - timedelta(days=1)), [], "points of yesterday")


@scenario("metrics")
async def what_is_gone_has_none(t):
    sandbox = await t.sandbox()
    await sandbox.kill()
    await t.raises("SandboxNotFoundException", sandbox.get_metrics())
