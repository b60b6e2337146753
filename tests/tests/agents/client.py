"""An agent's client: lists the tools of `atoll mcp` and calls every one, with the protocol's own Python SDK.

    client.py stdio|http initialize|discover OPTION...

OPTIONs go to `atoll mcp`. The server of sandboxes is named by ATOLL_URL and ATOLL_API_KEY, the program by ATOLL_BIN, and a
directory for files by FILES. Ends with 0 when everything is as it should be, and prints the id of the session's sandbox.
"""

import asyncio
import base64
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import urllib.error
import urllib.request

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import create_mcp_http_client, streamable_http_client

BINARY = os.environ["ATOLL_BIN"]
TOKEN = "the token of this story"
EVERY = {
    "create_sandbox", "list_sandboxes", "delete_sandbox", "pause_sandbox", "resume_sandbox", "run_code", "exec_command",
    "read_file", "write_file", "list_files", "upload_file", "download_file", "port_url",
}  # fmt: skip


def text(result):
    return "\n".join(block.text for block in result.content if block.type == "text")


class Agent:
    def __init__(self, session):
        self.session = session

    async def call(self, tool, **arguments):
        result = await self.session.call_tool(tool, arguments)
        assert not result.is_error, f"{tool}: {text(result)}"
        return text(result)

    async def refused(self, tool, **arguments):
        result = await self.session.call_tool(tool, arguments)
        assert result.is_error, f"{tool} was not refused: {text(result)}"
        return text(result)


async def sandboxes(agent):
    made = json.loads(await agent.call("create_sandbox", image="base", cpu="500m", memory="256Mi", env={"A": "b"}))
    other = made["sandbox"]
    assert other in await agent.call("list_sandboxes", limit=10)
    paused = json.loads(await agent.call("pause_sandbox", sandbox=other))
    assert paused["phase"] == "paused", paused
    resumed = json.loads(await agent.call("resume_sandbox", sandbox=other))
    assert resumed["phase"] == "running", resumed
    assert "b" in await agent.call("exec_command", sandbox=other, command="echo $A")
    await agent.call("delete_sandbox", sandbox=other)
    await agent.refused("exec_command", sandbox=other, command="true")
    assert "not both" in await agent.refused("create_sandbox", image="base", template="x")
    assert "i0" in await agent.refused("delete_sandbox", sandbox="i0000000000000000000")


async def commands(agent):
    first = await agent.call("exec_command", command="echo out; echo err >&2; exit 3", cwd="/tmp", env={"X": "y"})
    assert "was made for this session" in first and "exit code: 3" in first, first
    assert "stdout:\nout" in first and "stderr:\nerr" in first, first
    second = await agent.call("exec_command", command="pwd; echo $X; id -un", cwd="/usr", env={"X": "y"}, user="root")
    assert "stdout:\n/usr\ny\nroot" in second and "was made" not in second, second
    late = await agent.call("exec_command", command="sleep 600", timeout=1)
    assert "time was up" in late, late
    long = await agent.call("exec_command", command="seq 1000000")
    assert "characters cut here" in long and "\n1000000" in long and len(long) < 60000, len(long)
    assert "missing field" in await agent.refused("exec_command")
    assert "unknown field" in await agent.refused("exec_command", command="true", comand="false")


async def code(agent):
    assert "42" in await agent.call("run_code", code="print(6 * 7)")
    assert "42" in await agent.call("run_code", code="console.log(6 * 7)", language="javascript")
    assert "42" in await agent.call("run_code", code="echo $((6 * 7))", language="bash")
    failed = await agent.call("run_code", code="1 / 0", language="python", timeout=30)
    assert "ZeroDivisionError" in failed, failed
    assert "unknown variant" in await agent.refused("run_code", code="1", language="cobol")


async def files(agent, folder):
    await agent.call("write_file", path="/home/user/notes/a.txt", content="first\nsecond\n")
    assert await agent.call("read_file", path="/home/user/notes/a.txt") == "first\nsecond\n"
    bytes_ = bytes(range(256)) * 9
    await agent.call("write_file", path="/tmp/b", content=base64.b64encode(bytes_).decode(), encoding="base64")
    assert base64.b64decode(await agent.call("read_file", path="/tmp/b", encoding="base64")) == bytes_
    assert "base64" in await agent.refused("read_file", path="/tmp/b")
    assert "base64" in await agent.refused("write_file", path="/tmp/c", content="?", encoding="base64")
    listed = await agent.call("list_files", path="/home/user/notes")
    assert "a.txt" in listed and "13 bytes" in listed, listed
    assert "/nowhere" in await agent.refused("read_file", path="/nowhere")
    await agent.call("exec_command", command="seq 1000000 >/tmp/long")
    long = await agent.call("read_file", path="/tmp/long")
    assert "cut" in long and len(long) < 60000, len(long)
    here = pathlib.Path(folder)
    (here / "up").write_bytes(bytes_ * 1000)
    assert str(len(bytes_) * 1000) in await agent.call("upload_file", local_path="up", path="/tmp/up")
    await agent.call("download_file", path="/tmp/up", local_path="down")
    assert (here / "down").read_bytes() == bytes_ * 1000
    for outside in ["/etc/passwd", "../secret"]:
        await agent.refused("upload_file", local_path=outside, path="/tmp/stolen")
        await agent.refused("download_file", path="/tmp/up", local_path=outside)
    await agent.refused("download_file", path="/nowhere", local_path="half")
    assert sorted(entry.name for entry in here.iterdir()) == ["down", "up"]


async def ports(agent):
    await agent.call("exec_command", command="cd /etc && setsid nohup python3 -m http.server 8000 >/dev/null 2>&1 &")
    told = json.loads(await agent.call("port_url", port=8000, expires_in=60))
    assert "8000-" in told["url"] and "atoll_token=" in told["link"], told
    assert "expires_in" in await agent.refused("port_url", port=8000, expires_in=2592001)


async def everything(session, folder):
    tools = (await session.list_tools()).tools
    assert {tool.name for tool in tools} == EVERY, [tool.name for tool in tools]
    for tool in tools:
        assert tool.description and tool.input_schema["type"] == "object", tool
    agent = Agent(session)
    await commands(agent)
    await sandboxes(agent)
    await code(agent)
    await files(agent, folder)
    await ports(agent)
    print("sandbox", (await agent.call("exec_command", command="hostname")).split("stdout:\n")[1].split()[0])


async def begin(session, lifecycle):
    await (session.initialize() if lifecycle == "initialize" else session.discover())


async def over_stdio(lifecycle, options, folder):
    environment = {name: os.environ[name] for name in ("ATOLL_URL", "ATOLL_API_KEY") if name in os.environ}
    command = StdioServerParameters(command=BINARY, args=["mcp", "--files", folder, *options], env=environment)
    async with stdio_client(command) as (read, write), ClientSession(read, write) as session:
        await begin(session, lifecycle)
        await everything(session, folder)


@contextlib.contextmanager
def serving(options, folder):
    command = [BINARY, "mcp", "--http", "127.0.0.1:0", "--files", folder, *options]
    environment = {**os.environ, "ATOLL_MCP_TOKEN": TOKEN}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as server:
        try:
            line = server.stderr.readline()
            assert "serving agents at " in line, line
            yield line.split(" at ")[1].strip()
        finally:
            server.terminate()


def status(url, headers):
    body = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    headers = {"content-type": "application/json", "accept": "application/json, text/event-stream", **headers}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        return urllib.request.urlopen(request).status
    except urllib.error.HTTPError as refused:
        return refused.code


def guarded(url):
    bearer = {"authorization": f"Bearer {TOKEN}"}
    for headers in [{}, {"authorization": "Bearer no"}, {"authorization": f"Basic {TOKEN}"}, {"x-api-key": TOKEN}]:
        assert status(url, headers) == 401, headers
    for headers in [{"host": "rebound.example"}, {"origin": "https://evil.example"}, {"origin": "null"}]:
        assert status(url, {**bearer, **headers}) == 403, headers


async def over_http(lifecycle, options, folder):
    with serving(options, folder) as url:
        guarded(url)
        client = create_mcp_http_client(headers={"Authorization": f"Bearer {TOKEN}"})
        async with client, streamable_http_client(url, http_client=client) as streams:
            async with ClientSession(streams[0], streams[1]) as session:
                await begin(session, lifecycle)
                await everything(session, folder)


def main():
    transport, lifecycle, *options = sys.argv[1:]
    run = {"stdio": over_stdio, "http": over_http}[transport]
    asyncio.run(run(lifecycle, options, os.environ["FILES"]))


main()
