"""etcd, kube-apiserver, kube-controller-manager and kube-scheduler on ports of one machine: loopback, or one address
that a real node reaches.

Needs no root, no openssl and no container engine. All of it lives in one folder, and dies with the process that
started it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import urllib3

from devcluster import pki
from devcluster.kube import Access, ApiError, Kube
from devcluster.processes import LOOPBACK, Program, port_answers, start, start_on_free_ports
from devcluster.toolchain import Tools

API_SERVER_NAMES = (LOOPBACK, "10.96.0.1", "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
START_SECONDS = 120  # generous, for machines that are busy with something else


class ControlPlane:
    """Four running programs. `admin` talks to the API server as system:masters; `kubeconfig` does so for others."""

    def __init__(self, tools: Tools, folder: Path, address: str = LOOPBACK) -> None:
        self._tools, self._folder, self.logs, self._address = tools, folder, folder / "logs", address
        self.programs: list[Program] = []
        self.kubeconfig = folder / "kubeconfig"
        self._authority = pki.Authority(folder / "pki")
        self._serving = self._authority.issue("kube-apiserver", hosts=(*API_SERVER_NAMES, address))
        self._service_account_key = folder / "pki" / "service-accounts.key"
        pki.service_account_key(self._service_account_key)

    def start(self) -> None:
        """Returns when the API server is ready and new namespaces get their ServiceAccount. Raises DidNotStart."""
        start_on_free_ports(3, self._start, self.stop)

    def stop(self) -> None:
        """In reverse order of start. Nothing here is worth a farewell: the data goes with the folder."""
        while self.programs:
            self.programs.pop().kill()

    def access(self, user: str, groups: Iterable[str] = ()) -> Access:
        """A new client certificate for `user`; what it may do is decided by RBAC, or by the Node authorizer."""
        pair = self._authority.issue(user, groups=tuple(groups))
        return Access(self.server, self._authority.certificate, pair.certificate, pair.key)

    def serving_pair(self, name: str, hosts: tuple[str, ...]) -> pki.Pair:
        """A certificate for a server that the API server calls, such as the node's log endpoint."""
        return self._authority.issue(name, hosts=hosts)

    def _start(self, etcd_port: int, peer_port: int, api_port: int) -> None:
        self.server = f"https://{self._address}:{api_port}"
        etcd = self._run("etcd", self._tools.etcd, _etcd_flags(self._folder, self._serving, etcd_port, peer_port))
        etcd.wait_until(lambda: port_answers(etcd_port), START_SECONDS)
        api_server = self._run("kube-apiserver", self._tools.kube_apiserver, self._api_flags(etcd_port, api_port))
        access = self.access("admin", ["system:masters"])
        access.write_kubeconfig(self.kubeconfig)
        self.admin = Kube(access)
        api_server.wait_until(self._ready, START_SECONDS)
        controllers = self._run(
            "kube-controller-manager", self._tools.kube_controller_manager, self._controller_flags()
        )
        self._run("kube-scheduler", self._tools.kube_scheduler, self._scheduler_flags())
        controllers.wait_until(self._controllers_work, START_SECONDS)

    def _run(self, name: str, program: Path, flags: list[str]) -> Program:
        self.programs.append(start(name, [program, *flags], self.logs, cwd=self._folder))
        return self.programs[-1]

    def _ready(self) -> bool:
        try:
            return bool(self.admin.get("/readyz")["text"] == "ok")
        except (ApiError, urllib3.exceptions.HTTPError):
            return False

    def _controllers_work(self) -> bool:
        return self.admin.find("/api/v1/namespaces/default/serviceaccounts/default") is not None

    def _api_flags(self, etcd_port: int, api_port: int) -> list[str]:
        serving, authority, accounts = self._serving, self._authority.certificate, self._service_account_key
        return [
            f"--etcd-servers=https://{LOOPBACK}:{etcd_port}",
            f"--etcd-cafile={authority}",
            f"--etcd-certfile={serving.certificate}",
            f"--etcd-keyfile={serving.key}",
            f"--bind-address={self._address}",
            f"--advertise-address={self._address}",
            f"--secure-port={api_port}",
            f"--tls-cert-file={serving.certificate}",
            f"--tls-private-key-file={serving.key}",
            f"--client-ca-file={authority}",
            f"--kubelet-certificate-authority={authority}",
            f"--kubelet-client-certificate={serving.certificate}",
            f"--kubelet-client-key={serving.key}",
            "--kubelet-preferred-address-types=InternalIP",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            f"--service-account-key-file={accounts}",
            f"--service-account-signing-key-file={accounts}",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.96.0.0/16",
            # Endpoints of a loopback address are refused by validation, so there are none.
            f"--endpoint-reconciler-type={'none' if self._address == LOOPBACK else 'lease'}",
        ]

    def _controller_flags(self) -> list[str]:
        return [
            f"--kubeconfig={self._user_kubeconfig('system:kube-controller-manager')}",
            f"--service-account-private-key-file={self._service_account_key}",
            f"--root-ca-file={self._authority.certificate}",
            "--use-service-account-credentials=true",
            "--leader-elect=false",
            "--secure-port=0",
            "--kube-api-qps=200",  # tests are impatient, and there is nobody else to be fair to
            "--kube-api-burst=400",
        ]

    def _scheduler_flags(self) -> list[str]:
        return [
            f"--kubeconfig={self._user_kubeconfig('system:kube-scheduler')}",
            "--leader-elect=false",
            "--secure-port=0",
        ]

    def _user_kubeconfig(self, user: str) -> Path:
        path = self._folder / f"{user.replace(':', '-')}.kubeconfig"
        self.access(user).write_kubeconfig(path)
        return path


def _etcd_flags(folder: Path, pair: pki.Pair, client_port: int, peer_port: int) -> list[str]:
    """Clients need a certificate: what lies in etcd, Secrets included, is for the API server's eyes."""
    client, peer = f"https://{LOOPBACK}:{client_port}", f"http://{LOOPBACK}:{peer_port}"
    return [
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        f"--cert-file={pair.certificate}",
        f"--key-file={pair.key}",
        "--client-cert-auth=true",
        f"--trusted-ca-file={folder / 'pki' / 'ca.crt'}",
        "--unsafe-no-fsync=true",
        "--log-level=warn",
    ]
