# Runs inside a sandbox, as root, and tries what untrusted code would try. Prints one line for each attempt: its name, then
# "refused" and why, or "SUCCEEDED" and what it could do. Arguments: addresses of the host, a port of it, and HOST:PORT of
# another sandbox. With the one argument "inside" or "outside" it makes the same moves where they must succeed, so that a
# move which is broken is not taken for one that was refused: inside a sandbox, against what is the probe's own; outside,
# as root in namespaces of its own that are thrown away, against what a sandbox keeps shut.
import ctypes, errno, os, platform, socket, struct, sys, time

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"
# Numbers of system calls: (x86_64, aarch64).
NUMBERS = {
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "keyctl": (250, 219),
    "add_key": (248, 217), "request_key": (249, 218), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "kexec_load": (246, 104), "open_by_handle_at": (304, 265), "setns": (308, 268),
    "pivot_root": (155, 41), "swapon": (167, 224), "reboot": (169, 142), "syslog": (103, 116),
    "process_vm_readv": (310, 270), "clock_settime": (227, 112), "io_uring_setup": (425, 425), "acct": (163, 89),
    "quotactl": (179, 60), "fsopen": (430, 430), "open_tree": (428, 428), "move_mount": (429, 429),
    "mount_setattr": (442, 442), "clone3": (435, 435), "settimeofday": (164, 170), "sethostname": (170, 161),
    "lookup_dcookie": (212, 18), "vhangup": (153, 58), "ioperm": (173, None), "iopl": (172, None),
}
CLONE_NEWUSER, CLONE_NEWNS, CLONE_NEWNET, CLONE_NEWPID = 0x10000000, 0x20000, 0x40000000, 0x20000000


class Refused(Exception):
    pass


def check(result):
    if result < 0:
        raise Refused(errno.errorcode.get(ctypes.get_errno(), ctypes.get_errno()))
    return result


def call(name, *args):
    number = NUMBERS[name][0 if X86 else 1]
    if number is None:
        raise Refused("no such call on this machine")
    return check(libc.syscall(number, *args))


def write(path, data):
    with open(path, "wb", buffering=0) as file:
        file.write(data)
    return f"wrote {path}"


def mount(source, target, kind, flags=0, data=None):
    os.makedirs(target, exist_ok=True)
    check(libc.mount(source, target.encode(), kind, flags, data))
    return f"mounted {kind} on {target}"


def device(path, major, minor, char=False):
    if not os.path.exists(path):
        os.mknod(path, (0o20600 if char else 0o60600), os.makedev(major, minor))
    with open(path, "rb") as file:
        file.read(16)
    return f"read {path}"


def host_device_nodes(place="/dev"):
    usual = {"null", "zero", "full", "random", "urandom", "tty", "console", "ptmx", "pts", "shm", "mqueue", "fd",
             "stdin", "stdout", "stderr", "core", "net", "fuse"}
    more = sorted(set(os.listdir(place)) - usual)
    if not more:
        raise Refused("only the usual nodes")
    return f"{place} has {more}"


def connect(address):
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=2) as stream:
        stream.settimeout(2)
        return f"connected to {address}"


def raw(family, kind, protocol):
    socket.socket(family, kind, protocol).close()
    return "opened a raw socket"


def in_child(work):
    """Runs `work` in a child, because a success would change this process."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            text = "S" + str(work())
        except Refused as refusal:
            text = "R" + str(refusal)
        except OSError as problem:
            text = "R" + str(problem)
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    text = os.read(reader, 4096).decode()
    os.waitpid(pid, 0)
    if text.startswith("S"):
        return text[1:]
    raise Refused(text[1:] or "killed")


def unshare(flags):
    def work():
        check(libc.unshare(flags))
        return "unshared"
    return in_child(work)


def userns_then_mount():
    def work():
        check(libc.unshare(CLONE_NEWUSER | CLONE_NEWNS))
        return mount(b"x", "/tmp/m", b"tmpfs")
    return in_child(work)


def ptrace(pid):
    check(libc.ptrace(16, pid, 0, 0))  # PTRACE_ATTACH
    return f"attached to {pid}"


def told(path):
    """What a file says; nothing when it went meanwhile."""
    try:
        with open(path) as file:
            return file.read()
    except FileNotFoundError:
        return ""


def outsiders():
    """Processes that are not this sandbox's: none may be visible, and none may be reached by number."""
    def listed():
        return [int(p) for p in os.listdir("/proc") if p.isdigit()]

    def leader(number):
        """A thread is not listed, but has a place by its number: its process counts."""
        lines = told(f"/proc/{number}/status").splitlines()
        return next((int(line.split()[1]) for line in lines if line.startswith("Tgid:")), None)

    visible = listed()
    reached = [p for p in range(2, 70000) if p not in visible and os.path.exists(f"/proc/{p}/stat")]
    leaders = {leader(p) for p in reached} - {None}
    still = sorted(leaders - set(listed()))
    named = [p for p in visible if p not in (1, os.getpid()) and "atoll" in told(f"/proc/{p}/cmdline")
             and "escape" not in told(f"/proc/{p}/cmdline")]
    if not named and not still:
        raise Refused("none is visible")
    return f"sees {named} {still[:5]}"


class Piece(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


# At the same place in every process that was forked from this one, and readable in most others.
HERE = ctypes.create_string_buffer(b"found")


def readv(pid):
    """Reads a piece of another process: what it has mapped first, or where this one has a text of its own."""
    try:
        with open(f"/proc/{pid}/maps") as maps:
            maps.readline()
        place = ctypes.addressof(HERE)
    except OSError:
        place = 0x400000
    text = ctypes.create_string_buffer(5)
    local, remote = Piece(ctypes.addressof(text), 5), Piece(place, 5)
    call("process_vm_readv", pid, ctypes.byref(local), ctypes.c_ulong(1), ctypes.byref(remote), ctypes.c_ulong(1), ctypes.c_ulong(0))
    return f"read {text.raw} of process {pid}"


def memory(pid):
    with open(f"/proc/{pid}/mem", "rb+", buffering=0) as file:
        file.seek(ctypes.addressof(HERE))
        file.read(1)
    return f"opened the memory of process {pid}"


def binary(pid):
    with open(f"/proc/{pid}/exe", "rb+", buffering=0) as file:
        file.write(b"x")
    return f"wrote the binary of process {pid}"


def descriptors(pid):
    reached = []
    for number in os.listdir(f"/proc/{pid}/fd"):
        for attempt in (os.readlink, lambda path: os.close(os.open(path, os.O_RDWR)), os.listdir):
            try:
                reached.append(attempt(f"/proc/{pid}/fd/{number}"))
            except OSError:
                pass
    if reached:
        return f"reaches {reached}"
    raise Refused("none can be followed or opened")


def root(pid):
    return f"sees {os.listdir(f'/proc/{pid}/root')}"


def environment(pid):
    return open(f"/proc/{pid}/environ").read() + f"is the environment of process {pid}"


def kill(pid):
    os.kill(pid, 9)
    time.sleep(0.2)
    if os.path.exists(f"/proc/{pid}") and open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] not in "ZX":
        raise Refused("it lives")
    return f"killed process {pid}"


def agent_socket():
    """A path by which the agent could be spoken to, or a listening unix socket that can be connected to."""
    for line in open("/proc/net/unix").read().splitlines()[1:]:
        path = line.split()[-1]
        if path.startswith(("/", "@")) and "atoll" in path:
            return f"sees {path}"
    found = [os.path.join(base, name) for base, _, names in os.walk("/run") for name in names if "agent" in name]
    for path in found:
        try:
            socket.socket(socket.AF_UNIX).connect(path)
            return f"connected to {path}"
        except OSError:
            try:
                with open(path, "rb+"):
                    return f"opened {path} for writing"
            except OSError:
                pass
    raise Refused("no socket to be seen")


def agent_over_tcp(ports=(49983, 8666)):
    for port in ports:
        try:
            return connect(f"127.0.0.1:{port}")
        except OSError:
            pass
    raise Refused("nothing listens")


def layers():
    """Paths of the host in the mount table, and whether they lead anywhere."""
    for line in open("/proc/self/mountinfo"):
        for option in line.replace(",", " ").split():
            if option.startswith(("lowerdir=", "upperdir=", "workdir=")):
                for path in option.split("=", 1)[1].split(":"):
                    if os.path.isabs(path) and os.path.exists(path):
                        return f"reaches {path}"
    for path in ["/var/lib/atoll", "/run/atoll"]:
        if os.path.isdir(path) and os.listdir(path):
            return f"reaches {path}"
    raise Refused("no layer can be reached")


def cgroup_write():
    for base, dirs, names in os.walk("/sys/fs/cgroup"):
        for name in names:
            if name in ("memory.max", "memory.limit_in_bytes", "pids.max", "cpu.cfs_quota_us", "cgroup.procs",
                        "tasks", "release_agent", "devices.allow"):
                try:
                    return write(os.path.join(base, name), b"max" if name.endswith("max") else b"0")
                except OSError:
                    pass
    raise Refused("no control group file can be written")


def chroot_out(held="/"):
    """Climbs out of a root by a directory that was opened before; what is there must not be the root that it began in."""
    def work():
        os.makedirs("/tmp/jail", exist_ok=True)
        outside, begun = os.open(held, os.O_RDONLY), os.stat("/")
        os.chroot("/tmp/jail")
        os.fchdir(outside)
        for _ in range(64):
            os.chdir("..")
        os.chroot(".")
        if os.path.samestat(os.stat("/"), begun):
            raise Refused("ends at the root that it began in")
        return "left the root"
    return in_child(work)


def chroot_from_a_root():
    """The same climb by whoever holds a directory outside its root: it must be seen to leave."""
    def work():
        outside = os.open("/", os.O_RDONLY)
        os.makedirs("/tmp/begun/tmp/jail", exist_ok=True)
        os.makedirs("/tmp/begun/proc", exist_ok=True)
        os.chroot("/tmp/begun")
        os.chdir("/")
        begun = os.stat("/")
        os.chroot("/tmp/jail")
        os.fchdir(outside)
        os.chroot(".")
        if os.path.samestat(os.stat("/"), begun):
            raise Refused("stayed")
        return "left the root"
    return in_child(work)


def gains_capability(number):
    for line in open("/proc/self/status"):
        if line.startswith("CapBnd:") and int(line.split()[1], 16) >> number & 1:
            return f"capability {number} is in the bounding set"
    raise Refused("not in the bounding set")


def module():
    return call("finit_module", os.open("/bin/true", os.O_RDONLY), b"", 0)


def namespace_of(process):
    def work():
        call("setns", os.open(f"/proc/{process}/ns/mnt", os.O_RDONLY), 0)
        return "joined"
    return in_child(work)


def handle():
    raw_handle = struct.pack("Iiq", 8, 1, 2)
    return call("open_by_handle_at", os.open("/", os.O_RDONLY), raw_handle, 0)


def spoof():
    stream = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    stream.setsockopt(socket.IPPROTO_IP, 19, 1)  # IP_TRANSPARENT
    return "may send from any address"


ATTEMPTS = {
    "mount_tmpfs": lambda: mount(b"x", "/tmp/m1", b"tmpfs"),
    "mount_bind": lambda: mount(b"/etc", "/tmp/m2", None, 4096),
    "mount_proc": lambda: mount(b"proc", "/tmp/m3", b"proc"),
    "mount_sysfs": lambda: mount(b"sysfs", "/tmp/m4", b"sysfs"),
    "mount_cgroup": lambda: mount(b"c", "/tmp/m5", b"cgroup", 0, b"memory"),
    "mount_cgroup2": lambda: mount(b"c", "/tmp/m6", b"cgroup2"),
    "mount_overlay": lambda: mount(b"o", "/tmp/m7", b"overlay", 0, b"lowerdir=/etc:/usr"),
    "remount_proc_sys": lambda: mount(b"x", "/proc/sys", None, 32 | 4096),
    "unmount_mask": lambda: check(libc.umount2(b"/proc/kcore", 2)),
    "fsopen": lambda: call("fsopen", b"tmpfs", 0),
    "open_tree": lambda: call("open_tree", -100, b"/", 1),
    "pivot_root": lambda: call("pivot_root", b"/", b"/tmp"),
    "init_module": lambda: call("init_module", b"x", 1, b""),
    "finit_module": module,
    "delete_module": lambda: call("delete_module", b"veth", 0),
    "kexec": lambda: call("kexec_load", 0, 0, 0, 0),
    "reboot": lambda: call("reboot", 0xFEE1DEAD, 672274793, 0x89ABCDEF, 0),
    "swapon": lambda: call("swapon", b"/etc/passwd", 0),
    "acct": lambda: call("acct", b"/tmp/acct"),
    "sysrq": lambda: write("/proc/sysrq-trigger", b"h"),
    "core_pattern": lambda: write("/proc/sys/kernel/core_pattern", b"|/tmp/x"),
    "kernel_setting": lambda: write("/proc/sys/vm/drop_caches", b"1"),
    "panic_setting": lambda: write("/proc/sys/kernel/panic", b"1"),
    "modprobe_setting": lambda: write("/proc/sys/kernel/modprobe", b"/tmp/x"),
    "binfmt": lambda: write("/proc/sys/fs/binfmt_misc/register", b":x:M::x::/tmp/x:"),
    "irq": lambda: write("/proc/irq/default_smp_affinity", b"1"),
    "sys_write": lambda: write("/sys/kernel/mm/transparent_hugepage/enabled", b"never"),
    "uevent_helper": lambda: write("/sys/kernel/uevent_helper", b"/tmp/x"),
    "cgroup_write": cgroup_write,
    "kcore": lambda: device("/proc/kcore", 0, 0),
    "kernel_log": lambda: call("syslog", 3, ctypes.create_string_buffer(64), 64),
    "kmsg": lambda: device("/tmp/kmsg", 1, 11, True),
    "mem": lambda: device("/tmp/mem", 1, 1, True),
    "disk_254": lambda: device("/tmp/disk1", 254, 0),
    "disk_8": lambda: device("/tmp/disk2", 8, 0),
    "loop_control": lambda: device("/tmp/loop-control", 10, 237, True),
    "tun": lambda: device("/tmp/tun", 10, 200, True),
    "kvm": lambda: device("/tmp/kvm", 10, 232, True),
    "host_device_nodes": host_device_nodes,
    "packet_socket": lambda: raw(socket.AF_PACKET, socket.SOCK_RAW, 3),
    "raw_ip_socket": lambda: raw(socket.AF_INET, socket.SOCK_RAW, 255),
    "raw_icmp_socket": lambda: raw(socket.AF_INET, socket.SOCK_RAW, 1),
    "transparent_socket": spoof,
    "vsock": lambda: raw(40, socket.SOCK_STREAM, 0),
    "metadata_address": lambda: connect("169.254.169.254:80"),
    "other_sandbox": lambda: connect(other),
    "outsiders_visible": outsiders,
    "ptrace_agent": lambda: ptrace(1),
    "process_vm_readv_agent": lambda: readv(1),
    "agent_memory": lambda: memory(1),
    "agent_binary": lambda: binary(1),
    "agent_descriptors": lambda: descriptors(1),
    "agent_root": lambda: root(1),
    "agent_environment": lambda: environment(1),
    "agent_killed": lambda: kill(1),
    "agent_socket": agent_socket,
    "agent_over_tcp": agent_over_tcp,
    "unshare_user": lambda: unshare(CLONE_NEWUSER),
    "unshare_mount": lambda: unshare(CLONE_NEWNS),
    "unshare_net": lambda: unshare(CLONE_NEWNET),
    "unshare_pid": lambda: unshare(CLONE_NEWPID),
    "userns_then_mount": userns_then_mount,
    "setns": lambda: namespace_of(1),
    "chroot_escape": chroot_out,
    "open_by_handle": handle,
    "keyctl": lambda: call("keyctl", 0, -3, 1),
    "add_key": lambda: call("add_key", b"user", b"x", b"y", 1, -3),
    "request_key": lambda: call("request_key", b"user", b"x", 0, -3),
    "bpf": lambda: call("bpf", 0, ctypes.create_string_buffer(struct.pack("IIII", 2, 4, 8, 1), 64), 64),
    "perf": lambda: call("perf_event_open", ctypes.create_string_buffer(struct.pack("IIQ", 1, 128, 0) + bytes(112)), 0, -1, -1, 0),
    "userfaultfd": lambda: call("userfaultfd", 0),
    "io_uring": lambda: call("io_uring_setup", 8, ctypes.create_string_buffer(128)),
    "clock": lambda: call("clock_settime", 0, struct.pack("qq", 1, 0)),
    "ports_of_the_machine": lambda: call("iopl", 3),
    "quota": lambda: call("quotactl", 0x800003 << 8, b"/dev/vda", 0, 0),
    "layers_of_others": layers,
    "cap_sys_admin": lambda: gains_capability(21),
    "cap_sys_ptrace": lambda: gains_capability(19),
    "cap_net_raw": lambda: gains_capability(13),
    "cap_net_admin": lambda: gains_capability(12),
    "cap_mknod": lambda: gains_capability(27),
    "cap_sys_module": lambda: gains_capability(16),
}


def with_child(move):
    """Makes a move against a child of one's own, which waits meanwhile."""
    def work():
        pid = os.fork()
        if pid == 0:
            time.sleep(60)
            os._exit(0)
        try:
            return move(pid)
        finally:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
    return work


def with_listener(move, address=("127.0.0.1", 0)):
    """Makes a move against a socket that listens."""
    def work():
        with socket.create_server(address) as listener:
            return move(listener.getsockname()[1])
    return work


def own_socket():
    os.makedirs("/run/control", exist_ok=True)
    place = f"/run/control/agent-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(place)
        listener.listen()
        try:
            return agent_socket()
        finally:
            os.unlink(place)


def own_place(move):
    os.makedirs("/tmp/control", exist_ok=True)
    write("/tmp/control/extra", b"x")
    return move("/tmp/control")


# What nothing keeps a sandbox from.
INSIDE = {
    "write": lambda: write("/tmp/control-file", b"x"),
    "device": lambda: device("/dev/zero", 1, 5, True),
    "device_nodes": lambda: own_place(host_device_nodes),
    "connect": with_listener(lambda port: connect(f"127.0.0.1:{port}")),
    "over_tcp": with_listener(lambda port: agent_over_tcp((port,))),
    "socket": own_socket,
    "ptrace": with_child(ptrace),
    "readv": with_child(readv),
    "memory": with_child(memory),
    "descriptors": lambda: descriptors(os.getpid()),
    "root": lambda: root(os.getpid()),
    "environment": lambda: environment(os.getpid()),
    "kill": with_child(kill),
    "child": lambda: in_child(lambda: "lived"),
    "chroot": chroot_from_a_root,
    "capability": lambda: gains_capability(0),
}
# Attempts that succeed for the machine's root without harm to it, when its namespaces are thrown away.
OUTSIDE = [
    "mount_tmpfs", "mount_bind", "mount_proc", "mount_sysfs", "mount_overlay", "fsopen", "open_tree", "kernel_log",
    "packet_socket", "raw_ip_socket", "raw_icmp_socket", "transparent_socket", "outsiders_visible", "layers_of_others",
    "unshare_user", "unshare_mount", "unshare_net", "unshare_pid", "userns_then_mount", "keyctl", "add_key", "bpf", "perf",
    "cap_sys_admin", "cap_sys_ptrace", "cap_net_raw", "cap_net_admin", "cap_mknod", "cap_sys_module",
]
if len(sys.argv) == 2:
    outside = {name: ATTEMPTS[name] for name in OUTSIDE} | {"setns": lambda: namespace_of("self")}
    ATTEMPTS = INSIDE if sys.argv[1] == "inside" else outside
else:
    hosts, port, other = sys.argv[1].split(","), sys.argv[2], sys.argv[3]
    for number, address in enumerate(hosts):
        ATTEMPTS[f"host_address_{number}"] = lambda address=address: connect(f"{address}:{port}")

for name, attempt in ATTEMPTS.items():
    try:
        print(name, "SUCCEEDED:", attempt(), flush=True)
    except Refused as refusal:
        print(name, "refused:", refusal, flush=True)
    except OSError as problem:
        print(name, "refused:", problem.strerror or problem, flush=True)
