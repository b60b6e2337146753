"""Shows results of scenarios: line by line as they come, as a table in the end, and as a section of docs/compatibility.md."""
import json
import sys

AREAS = ["sandbox", "commands", "pty", "files", "watch", "git", "snapshots", "fork", "metrics", "templates", "network",
         "code-interpreter", "desktop", "volumes", "secrets", "cli", "methods"]


def lines():
    """Each result as one line, as the suites of ./test print theirs."""
    for line in sys.stdin:
        result = json.loads(line)
        name = f"{result['client']}: {result['area']}: {result['name']}"
        if result["status"] == "passed":
            print(f"ok {name}")
        elif result["status"] == "skipped":
            print(f"SKIPPED: {name}: {result['reason']}")
        else:
            print(f"FAILED {name}")
            print("\n".join(f"    {part}" for part in result["reason"].splitlines() or ["no reason"]))
        sys.stdout.flush()


def read(path):
    with open(path) as file:
        return [json.loads(line) for line in file]


def cell(results):
    """What came of one area in one client: how many of those that could be run passed."""
    count = {status: sum(each["status"] == status for each in results) for status in ("passed", "failed", "skipped")}
    if not results:
        return ""
    told = f"{count['passed']}/{count['passed'] + count['failed']}"
    return told + (f" ({count['skipped']} skipped)" if count["skipped"] else "")


def matrix(results):
    """Markdown: areas down, clients across."""
    clients = list(dict.fromkeys(each["client"] for each in results))
    areas = [area for area in AREAS if any(each["area"] == area for each in results)]
    rows = [["", *clients], ["---"] * (len(clients) + 1)]
    rows += [[area, *(cell([each for each in results if (each["area"], each["client"]) == (area, client)]) for client in clients)]
             for area in areas]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def reasons(results, status):
    """What did not pass and why: each reason of an area once, with all that it holds for."""
    found = {}
    for each in results:
        if each["status"] == status:
            name = f"`{each['name']}`" if each["area"] == "methods" else each["name"].replace("_", " ")
            names, clients = found.setdefault((AREAS.index(each["area"]), each["reason"]), ({}, {}))
            names[name], clients[each["client"]] = True, True
    order = sorted(found.items(), key=lambda item: (item[0][0], sorted(item[1][0])))
    return [f"- {AREAS[area]}, {'; '.join(sorted(names))}: {reason} ({', '.join(clients)})" for (area, reason), (names, clients) in order]


def table(path):
    results = read(path)
    count = {status: sum(each["status"] == status for each in results) for status in ("passed", "failed", "skipped")}
    print(f"\n{matrix(results)}\n\n{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped")
    return 1 if count["failed"] or not results else 0


HEAD = """# Compatibility with the E2B SDK

What our scenarios (`tests/conformance`) gave when they were run through the clients as their packages install them. A cell
says how many scenarios of an area passed, of those that the client could run. This page is written by
`tests/conformance/run --docs SECTION`.
"""


def docs(results_path, page_path, section):
    """Replaces, or adds, the section."""
    results = read(results_path)
    failed, skipped = reasons(results, "failed"), reasons(results, "skipped")
    parts = [f"## {section}\n", matrix(results), ""]
    parts += ["### Does not pass\n", *failed, ""] if failed else []
    parts += ["### Cannot pass, or cannot be tried, and why\n", *skipped, ""] if skipped else []
    try:
        with open(page_path) as file:
            page = file.read()
    except FileNotFoundError:
        page = HEAD
    head, *sections = page.split("\n## ")
    written = "\n".join(parts).removeprefix("## ")
    at = next((n for n, each in enumerate(sections) if each.split("\n")[0] == section), len(sections))
    sections[at:at + 1] = [written]
    with open(page_path, "w") as file:
        file.write("\n\n## ".join(each.strip("\n") for each in [head, *sections]) + "\n")


if __name__ == "__main__":
    if sys.argv[1] == "lines":
        lines()
    elif sys.argv[1] == "table":
        sys.exit(table(sys.argv[2]))
    else:
        docs(*sys.argv[2:5])
