"""A real node on this machine, as root: kubelet, containerd, kube-proxy and cluster DNS, in namespaces of its own.

The node has its own network, mount and PID namespace, joined to the machine by one virtual cable. So nothing of it
mixes with the machine's firewall rules, mounts and processes, and all of it is gone when its first process ends, by
kill -9 too. What it writes to disk lies on two file systems: container images in a folder that later runs use again,
and everything that belongs to pods on a disk image of its own, which a test can search byte by byte.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from devcluster import shim
from devcluster.cluster import Cluster, wait_until
from devcluster.processes import Program, port_answers, start
from devcluster.registry import manifest_of
from devcluster.toolchain import NodeTools, cache_dir

START_SECONDS = 120
REGISTRY, REGISTRY_PORT = "registry.devcluster.local", 5000  # a name that only the node's containerd knows
NEEDED = ("runc", "iptables", "conntrack", "nsenter", "unshare", "mkfs.ext4", "ip")
CNI_PLUGINS = Path("/usr/lib/cni")
INSTALL = "apt-get install -y runc containernetworking-plugins iptables conntrack ethtool iproute2 e2fsprogs util-linux"
POD_NETWORK = "10.244.0.0/24"
DISK_BYTES = 16 << 30  # sparse
DISK_NEEDED = 22 << 30
TMPFS_BYTES = 64 << 20
WRITTEN_BY_NODES = (Path("/var/lib/kubelet"), Path("/var/lib/cni"), Path("/var/log/containers"))
KERNEL_SETTINGS = {  # as the kubelet wants them; it finds them so and leaves the machine's own alone
    "vm.overcommit_memory": 1, "vm.panic_on_oom": 0, "kernel.panic": 10, "kernel.panic_on_oops": 1,
    "kernel.keys.root_maxkeys": 1000000, "kernel.keys.root_maxbytes": 25000000,
}  # fmt: skip


class CannotRun(Exception):
    """This machine cannot carry a real node; the message says what is missing and how to get it."""


def check() -> None:
    """Raises CannotRun."""
    if os.geteuid():
        raise CannotRun("a real node needs root: it makes namespaces, mounts and control groups")
    missing = [name for name in NEEDED if not shutil.which(name)]
    if missing or not (CNI_PLUGINS / "bridge").exists():
        raise CannotRun(f"missing: {', '.join(missing) or 'CNI plugins'}. On Debian: {INSTALL}")
    if "kubelet" in _running():
        raise CannotRun("a kubelet runs here already: two would clear away each other's pods")
    free = shutil.disk_usage(cache_dir().parent).free
    if free < DISK_NEEDED and not (cache_dir() / "images" / "index.json").exists():
        raise CannotRun(
            f"{free >> 30} GiB of disk are free, building and unpacking the images takes {DISK_NEEDED >> 30}"
        )
    probe = subprocess.run(["unshare", "--mount", "--net", "--pid", "--fork", "true"], capture_output=True, text=True)
    if probe.returncode:
        raise CannotRun(f"no namespaces can be made here: {probe.stderr.strip()}")


class Cable:
    """The node's namespaces, and the virtual cable between them and the machine. First to start, last to stop.

    `machine` is our address on it, where API server, S3 server and registry must listen; `node` is the node's.
    """

    def __init__(self, folder: Path) -> None:
        network = f"10.200.{secrets.randbelow(200) + 20}"
        self.machine, self.node = f"{network}.1", f"{network}.2"
        self._name = f"dbn{secrets.token_hex(3)}"
        self._logs = folder / "logs"
        self._holder: Program | None = None

    def start(self) -> None:
        # The namespaces' first process must collect orphans; the shim does, and "0" is its parent's number in there.
        init = [sys.executable, "-I", "-S", shim.__file__, "0", "sleep", "infinity"]
        spaces = ["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
        self._holder = start("namespaces", ["unshare", *spaces, *init], self._logs)
        self._holder.wait_until(lambda: bool(self._init()), START_SECONDS)
        _run("ip", "link", "add", self._name, "type", "veth", "peer", "name", "eth0", "netns", self._init())
        _run("ip", "address", "add", f"{self.machine}/24", "dev", self._name)
        _run("ip", "link", "set", self._name, "up")
        for command in (
            f"ip address add {self.node}/24 dev eth0", "ip link set eth0 up", "ip link set lo up",
            f"ip route add default via {self.machine}", "sysctl -qw net.ipv4.ip_forward=1",
        ):  # fmt: skip
            _run(*self.inside(command.split()))

    def stop(self) -> None:
        if self._holder:
            self._holder.kill()  # the cable's machine end goes with its peer

    def inside(self, command: Sequence[str | Path]) -> list[str]:
        """The command, to be run in the node's namespaces."""
        return ["nsenter", "--target", self._init(), "--mount", "--net", "--pid", "--", *map(str, command)]

    @property
    def root(self) -> Path:
        return Path(f"/proc/{self._init()}/root")

    def _init(self) -> str:
        """The number, out here, of the namespaces' first process: the shim's child's only child."""
        assert self._holder
        unshare = _first_child(self._holder.process.pid)
        return _first_child(unshare) if unshare else ""


class RealNode:
    """`kubelet` may be killed and started again, as a node's service manager would."""

    def __init__(self, cluster: Cluster, cable: Cable, tools: NodeTools, layout: Path, name: str = "node-0") -> None:
        """`layout` is the OCI image layout that the node pulls from, as `REGISTRY/<name>`."""
        self.name, self._cluster, self._cable, self._tools, self._layout = name, cluster, cable, tools, layout
        self._folder = cluster.folder / "nodes" / name
        self._logs = cluster.folder / "logs"
        self.disk_image = self._folder / "disk.img"
        self.disk = self._folder / "disk"  # its mount point; the mount is seen inside the node's namespaces only
        self.images = cache_dir() / "containerd"
        self.state = Path("/run/dreambooth-node")  # on a tmpfs of its own, inside; sockets need short paths
        self._programs: list[Program] = []
        self._made: list[Path] = []  # empty folders on the machine, under what the node has mounted there

    def start(self) -> None:
        """Returns when the node is Ready. Raises DidNotStart, TimeoutError."""
        _remove_control_groups()  # of one that was killed
        self._make_disk()
        self._keep_to_itself()
        self._serve_images()
        self._start_containerd()
        self._start("kube-proxy", [self._tools.kube_proxy, f"--config={self._kube_proxy_config()}"])
        self._start_dns()
        self.start_kubelet()
        wait_until(self._ready, f"node {self.name}", START_SECONDS)

    def stop(self) -> None:
        """At once; the namespaces' end takes what is left. Empty control groups are removed."""
        while self._programs:
            self._programs.pop().kill()
        self._cable.stop()
        _remove_control_groups()
        while self._made:
            self._made.pop().rmdir()

    def start_kubelet(self) -> None:
        self.kubelet = self._start(
            "kubelet",
            [
                self._tools.kubelet,
                f"--config={self._kubelet_config()}",
                f"--kubeconfig={self._kubeconfig(f'system:node:{self.name}', ['system:nodes'])}",
                f"--root-dir={self.disk / 'kubelet'}",
                f"--hostname-override={self.name}",
                f"--node-ip={self._cable.node}",
            ],
        )

    def restart_kubelet(self) -> None:
        """kill -9, and a start; containers go on meanwhile."""
        self.kubelet.kill()
        self._programs.remove(self.kubelet)
        self.start_kubelet()

    def image(self, name: str) -> tuple[str, str]:
        """Repository and digest under which pods name an image of the layout."""
        found = manifest_of(self._layout, name, "dev")
        assert found, f"{name} is in {self._layout}"
        return f"{REGISTRY}/{name}", found["digest"]

    def kill_container(self, pod_uid: str, container: str) -> None:
        """SIGKILL to every process of a container, as the kernel's memory killer or an operator's hand would."""
        self._ctr("tasks", "kill", "--all", "--signal", "SIGKILL", self._container(pod_uid, container))

    def container_started(self, pod_uid: str, container: str) -> float:
        """When its first process began, in seconds since the epoch; the API server tells whole seconds only."""
        wanted = self._container(pod_uid, container)
        (pid,) = [line.split()[1] for line in self._ctr("tasks", "ls").splitlines() if line.startswith(wanted)]
        ticks = int(self.seen(Path(f"/proc/{pid}/stat")).read_text().rpartition(")")[2].split()[19])
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")

    def _container(self, pod_uid: str, name: str) -> str:
        for container in self._ctr("containers", "ls", "-q").split():
            labels = json.loads(self._ctr("containers", "info", container))["Labels"]
            if (labels.get("io.kubernetes.pod.uid"), labels.get("io.kubernetes.container.name")) == (pod_uid, name):
                return container
        raise LookupError(f"no container {name} of pod {pod_uid} on {self.name}")

    def seen(self, path: Path) -> Path:
        """The path as the node's processes see it, with its mounts, for reading from out here."""
        return self._cable.root / path.relative_to("/")

    def run_inside(self, *command: str | Path) -> str:
        return _run(*self._cable.inside(command))

    def _ctr(self, *arguments: str) -> str:
        return self.run_inside(self._tools.ctr, "-a", self._socket, "-n", "k8s.io", *arguments)

    @property
    def _socket(self) -> Path:
        return self.state / "containerd.sock"

    def _make_disk(self) -> None:
        self.disk.mkdir(parents=True)
        with self.disk_image.open("wb") as image:
            image.truncate(DISK_BYTES)
        _run("mkfs.ext4", "-q", "-E", "lazy_itable_init=1,nodiscard", str(self.disk_image))
        self.run_inside("mount", "-o", "loop,nodiscard", self.disk_image, self.disk)
        self.run_inside("mkdir", "-p", self.disk / "kubelet", self.disk / "pod-logs", "/run")
        self.run_inside("mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES},mode=755", "tmpfs", "/run")
        self.run_inside("mkdir", "-p", self.state)

    def _keep_to_itself(self) -> None:
        """Fixed places where a kubelet and network plugins write, and settings of the kernel that a kubelet changes."""
        for folder in WRITTEN_BY_NODES:
            for missing in [path for path in (folder, *folder.parents) if not path.exists()][::-1]:
                missing.mkdir()
                self._made.append(missing)
            self.run_inside("mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "tmpfs", folder)
        for name, wanted in KERNEL_SETTINGS.items():
            settled = self._folder / "kernel" / name
            settled.parent.mkdir(exist_ok=True)
            settled.write_text(f"{wanted}\n")
            self.run_inside("mount", "--bind", settled, f"/proc/sys/{name.replace('.', '/')}")

    def _serve_images(self) -> None:
        command = [sys.executable, "-m", "devcluster.registry", self._layout, self._cable.machine, str(REGISTRY_PORT)]
        env = {"PATH": os.defpath, "PYTHONPATH": str(Path(__file__).parents[1])}
        registry = start("registry", command, self._logs, env=env)
        self._programs.append(registry)
        registry.wait_until(lambda: port_answers(REGISTRY_PORT, self._cable.machine), START_SECONDS)

    def _start_containerd(self) -> None:
        self.images.mkdir(parents=True, exist_ok=True)
        hosts = self._folder / "registries" / REGISTRY / "hosts.toml"
        hosts.parent.mkdir(parents=True)
        address = f"http://{self._cable.machine}:{REGISTRY_PORT}"
        hosts.write_text(f'server = "{address}"\n[host."{address}"]\ncapabilities = ["pull", "resolve"]\n')
        network = self._folder / "cni" / "10-bridge.conflist"
        network.parent.mkdir()
        network.write_text(json.dumps(_CNI))
        config = self._folder / "containerd.toml"
        values = {
            "root": self.images, "state": self.state / "containerd", "socket": self._socket,
            "pause": f"{REGISTRY}/pause:dev", "registries": hosts.parents[1],
            "cni": network.parent, "plugins": CNI_PLUGINS, "opt": self.state / "opt",
        }  # fmt: skip
        config.write_text(_CONTAINERD.format(**{name: json.dumps(str(value)) for name, value in values.items()}))
        containerd = self._start("containerd", [self._tools.containerd, "--config", config])
        containerd.wait_until(self._containerd_answers, START_SECONDS)

    def _containerd_answers(self) -> bool:
        try:
            return "Server" in self._ctr("version")
        except subprocess.CalledProcessError:
            return False

    def _start_dns(self) -> None:
        """CoreDNS on our side of the cable; every pod is told its address."""
        corefile = self._folder / "Corefile"
        kubeconfig = self._kubeconfig("dns", ["system:masters"])
        names = f"kubernetes cluster.local in-addr.arpa {{\n  kubeconfig {kubeconfig}\n }}"
        corefile.write_text(f".:53 {{\n bind {self._cable.machine}\n {names}\n}}\n")
        dns = start("coredns", [self._tools.coredns, "-conf", corefile], self._logs)
        self._programs.append(dns)
        dns.wait_until(lambda: port_answers(53, self._cable.machine), START_SECONDS)

    def _kubelet_config(self) -> Path:
        serving = self._cluster.control_plane.serving_pair(f"{self.name}-serving", (self._cable.node, self.name))
        config = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self._cable.node,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": False},
                "x509": {"clientCAFile": str(self._cluster.control_plane.access("kubelet-clients").authority)},
            },
            "authorization": {"mode": "AlwaysAllow"},  # for those whom our own authority has signed
            "tlsCertFile": str(serving.certificate),
            "tlsPrivateKeyFile": str(serving.key),
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": False,
            "failSwapOn": False,
            "enforceNodeAllocatable": [],
            "containerRuntimeEndpoint": f"unix://{self._socket}",
            "clusterDomain": "cluster.local",
            "clusterDNS": [self._cable.machine],
            "podLogsDir": str(self.disk / "pod-logs"),
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,  # images stay for the next run
            "shutdownGracePeriod": "0s",
        }
        return self._write("kubelet.json", config)

    def _kube_proxy_config(self) -> Path:
        config = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "bindAddress": self._cable.node,
            "hostnameOverride": self.name,
            "clusterCIDR": POD_NETWORK,
            "conntrack": {"maxPerCore": 0, "min": 0},
            "clientConnection": {"kubeconfig": str(self._kubeconfig("system:kube-proxy"))},
        }
        return self._write("kube-proxy.json", config)

    def _kubeconfig(self, user: str, groups: Sequence[str] = ()) -> Path:
        path = self._folder / f"{user.replace(':', '-')}.kubeconfig"
        self._cluster.control_plane.access(user, groups).write_kubeconfig(path)
        return path

    def _write(self, name: str, config: dict[str, object]) -> Path:
        path = self._folder / name
        path.write_text(json.dumps(config, indent=1))
        return path

    def _start(self, name: str, command: Sequence[str | Path]) -> Program:
        path = f"{self._tools.containerd_shim_runc_v2.parent}:{os.environ.get('PATH', os.defpath)}"
        self._programs.append(start(name, self._cable.inside(command), self._logs, env={"PATH": path}))
        return self._programs[-1]

    def _ready(self) -> bool:
        node = self._cluster.kube.find(f"/api/v1/nodes/{self.name}")
        conditions = {one["type"]: one["status"] for one in (node or {}).get("status", {}).get("conditions", ())}
        return conditions.get("Ready") == "True" and not (node or {})["spec"].get("taints")


_CONTAINERD = """version = 3
root = {root}
state = {state}
disabled_plugins = ["io.containerd.nri.v1.nri"]
[grpc]
address = {socket}
[plugins."io.containerd.internal.v1.opt"]
path = {opt}
[plugins."io.containerd.cri.v1.images"]
discard_unpacked_layers = true
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = {pause}
[plugins."io.containerd.cri.v1.images".registry]
config_path = {registries}
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = [{plugins}]
conf_dir = {cni}
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
SystemdCgroup = false
"""

_CNI = {
    "cniVersion": "1.0.0",
    "name": "pods",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipMasq": True,
            "ipam": {
                "type": "host-local",
                "dataDir": "/run/cni",
                "ranges": [[{"subnet": POD_NETWORK}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        },
        {"type": "loopback"},
    ],
}


def _running() -> set[str]:
    """Names of the machine's processes."""
    names = set()
    for comm in Path("/proc").glob("[0-9]*/comm"):
        with suppress(OSError):  # it has ended
            names.add(comm.read_text().strip())
    return names


def _first_child(pid: str | int) -> str:
    """Empty when there is none yet."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().partition(" ")[0]


def _remove_control_groups() -> None:
    """The kubelet's, deepest first; one that still has processes is not ours to remove."""
    for root in Path("/sys/fs/cgroup").glob("**/kubepods"):
        for folder, _, _ in os.walk(root, topdown=False):
            try:
                os.rmdir(folder)
            except OSError:
                continue


def _run(*command: str | Path) -> str:
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    try:
        check()
    except CannotRun as error:
        sys.exit(f"No real node on this machine: {error}")
